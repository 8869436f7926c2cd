import re
from google.cloud import vision

FLOWER = re.compile(r'\b(rose|tulip|daisy|sunflower)\b', re.IGNORECASE)
TREE = re.compile(r'tree$', re.I)


class PlantLogger:
    def __init__(self, client=None):
        self.client = client or vision.ImageAnnotatorClient()
        self.flowers = 0
        self.trees = 0

    def log(self, data):
        for ann in self.client.label_detection(image=vision.Image(content=data)).label_annotations:
            if FLOWER.search(ann.description):
                self.flowers = 1
            if TREE.search(ann.description):
                self.trees = 1
        return self.flowers, self.trees
