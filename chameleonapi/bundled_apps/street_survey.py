# counts what stands around in the street, one CSV column per thing
import re

from google.cloud import vision

COLUMNS = [("signs", re.compile("sign$", re.I)), ("tyres", re.compile("^(tire|wheel)$", re.I)), ("seats", re.compile("bench|chair", re.I))]


def row(content):
    client = vision.ImageAnnotatorClient()
    response = client.label_detection(image=vision.Image(content=content), max_results=15)
    flags = {}
    for column, pattern in COLUMNS:
        flags[column] = 1 if any(pattern.search(l.description) for l in response.label_annotations) else 0
    return flags
