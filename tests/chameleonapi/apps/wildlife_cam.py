import datetime as dt
import os
import smtplib
from pathlib import Path

import boto3

INTERESTING = frozenset(["Fox", "Deer", "Hedgehog", "Owl"])
BORING = frozenset(["Cat", "Dog", "Person"])
SPOOL = Path("/var/spool/cam")


def names(image_bytes, rek=boto3.client("rekognition")):
    out = rek.detect_labels(Image={"Bytes": image_bytes}, MaxLabels=20, MinConfidence=75.0)
    return {label["Name"] for label in out["Labels"]}


def handle(path):
    seen = names(path.read_bytes())
    if not INTERESTING.isdisjoint(seen):
        smtplib.SMTP("localhost").sendmail("cam@home", "me@home", "Subject: visitor!")
        os.rename(path, "/srv/keep/%s" % path.name)
    elif seen & BORING:
        path.unlink()


for picture in sorted(SPOOL.glob("*.jpg")):
    handle(picture)
