from google.cloud import vision

_client = None


def client():
    global _client
    if _client is None:
        _client = vision.ImageAnnotatorClient()
    return _client


def describe(path):
    with open(path, "rb") as f:
        answer = client().label_detection(image=vision.Image(content=f.read()))
    return [a.description.lower() for a in answer.label_annotations]
