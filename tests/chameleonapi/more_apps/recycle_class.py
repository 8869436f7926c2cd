# -*- coding: utf-8 -*-
import os
import io
from google.cloud import vision
from google.cloud.vision import types

class Recycle:
    """Sorts garbage"""
    plastic_list = ['Plastic', 'Plastic bottle', 'Plastic bag']
    paper_list = ['Paper', 'Cardboard', 'Newspaper']
    metal_list = ['Metal', 'Tin', 'Aluminum can', 'Tin can']
    glass_list = ['Glass', 'Glass bottle', 'Wine bottle']

    def __init__(self, key="key.json"):
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = key
        self.client = vision.ImageAnnotatorClient()
        self.result = 'unknown'

    def __load(self, name):
        with io.open(name, 'rb') as f:
            return types.Image(content=f.read())

    def classify(self, name):
        resp = self.client.label_detection(image=self.__load(name))
        p, c, m, g = 0, 0, 0, 0
        for label in resp.label_annotations:
            if label.description in self.plastic_list:
                p = 1
            if label.description in self.paper_list:
                c = 1
            if label.description in self.metal_list:
                m = 1
            if label.description in self.glass_list:
                g = 1
        if p == 1:
            self.result = 'plastic'
        elif c == 1:
            self.result = 'paper'
        elif m == 1:
            self.result = 'metal'
        elif g == 1:
            self.result = 'glass'
        return self.result

def main():
    r = Recycle()
    print(r.classify('trash.jpg'))

if __name__ == '__main__':
    main()
