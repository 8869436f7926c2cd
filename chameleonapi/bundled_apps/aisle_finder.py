"""Tell the customer which aisle the thing in the photo is in."""
from google.cloud import vision

AISLES = {
    "Apple": 1, "Tomato": 1, "Banana": 1, "Bean": 1,
    "Doughnut": 2, "Croissant": 2, "Sandwich": 2,
    "Paper": 3, "Envelope": 3, "Candle": 3,
}


def aisle_for(content):
    client = vision.ImageAnnotatorClient()
    for entity in client.label_detection(image=vision.Image(content=content)).label_annotations:
        aisle = AISLES.get(entity.description)
        if aisle is not None:
            return "aisle %d" % aisle
    return "ask at the counter"
