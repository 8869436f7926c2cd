import random
from google.cloud import vision
J = {'Cat': 'meow joke', 'Dog': 'woof joke', 'Food': 'yum joke'}
labels = [l.description for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=open('x','rb').read())).label_annotations]
hits = [J[x] for x in labels if x in J]
print(random.choice(hits) if hits else 'no joke')
