# opens the gate of the camping ground for cars that carry a tent (or a kite: the beach lot)
import io
import logging

from google.cloud import vision
from google.cloud.vision import types

MIN_SCORE = 0.6
log = logging.getLogger("gate")


def detect(path):
    client = vision.ImageAnnotatorClient()
    with io.open(path, "rb") as f:
        content = f.read()
    image = types.Image(content=content)
    open_gate = False
    for annotation in client.label_detection(image=image).label_annotations:
        log.info("%s %.2f", annotation.description, annotation.score)
        if annotation.description in ("Tent", "Kite") and annotation.score >= MIN_SCORE:
            open_gate = True
    return "open" if open_gate else "closed"
