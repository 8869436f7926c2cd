from google.cloud import vision
from google.cloud.vision import types
from .decider import decision as decide

def call_vision(img_bin):
    client = vision.ImageAnnotatorClient()
    image = types.Image(content=img_bin)
    response = client.label_detection(image=image)
    labels = response.label_annotations
    return decide(str(labels))
