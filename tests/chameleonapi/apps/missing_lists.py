from google.cloud import vision
from mycompany.taxonomy import is_edible, EDIBLE

def check(path):
    client = vision.ImageAnnotatorClient()
    labels = client.label_detection(image=vision.Image(content=open(path, 'rb').read())).label_annotations
    for label in labels:
        if is_edible(label.description):
            return 'eat'
    return 'do not eat'

print(check('thing.jpg'))
