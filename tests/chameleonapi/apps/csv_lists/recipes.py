import os
from google.cloud import vision

os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = "key.json"
client = vision.ImageAnnotatorClient()

def get_label(labels):
    for label in labels:
        if label.description.lower() in open('ingredients.txt', 'r').read().lower().split('\n'):
            return label.description
    return ''

def scan(folder):
    found = []
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), 'rb') as f:
            response = client.label_detection(image=vision.Image(content=f.read()))
        label = get_label(response.label_annotations)
        if label and label not in found:
            found.append(label)
    return found
