# which craft tutorial to start, from what lies on the table
from google.cloud import vision

TUTORIALS = [
    ("folding", {"Paper", "Carton", "Kite"}),
    ("pressing", {"Leaf", "Sunflower", "Starfish"}),
    ("beads", {"Bracelet", "Diamond", "Bean"}),
    ("lantern", {"Glass bottle", "Candle"}),
]


def pick(content):
    client = vision.ImageAnnotatorClient()
    response = client.label_detection(image=vision.Image(content=content), max_results=10)
    matches = (title for label in response.label_annotations for title, parts in TUTORIALS if label.description in parts)
    return next(matches, None)
