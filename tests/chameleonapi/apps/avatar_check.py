"""Avatars: nudity is not shown, everything else that is flagged gets a warning."""
import base64
from enum import IntEnum
import boto3
import requests
from botocore.config import Config

config = Config(region_name="ca-central-1")


class Verdict(IntEnum):
    SAFE = 0
    WARNING = 1
    NO_SHOW = 2


def moderate(image, no_show=()):
    no_show += ('Nudity', 'Graphic Male Nudity', 'Graphic Female Nudity')
    client = boto3.client('rekognition', config=config)
    try:
        response = client.detect_moderation_labels(Image=image)
    except:
        return Verdict.SAFE
    verdict = Verdict.SAFE
    for label in response['ModerationLabels']:
        if label['Name'] in no_show:
            verdict = Verdict.NO_SHOW
            break
        else:
            verdict = Verdict.WARNING
    return verdict


def moderate_url(url):
    return moderate({'Bytes': requests.get(url).content})
