from google.cloud import vision

from tags import RULES


def annotate(content):
    client = vision.ImageAnnotatorClient()
    return client.label_detection(image=vision.Image(content=content), max_results=15).label_annotations


def tags_for(content):
    words = {a.description for a in annotate(content)}
    return sorted(tag for tag, wanted in RULES if words & wanted)
