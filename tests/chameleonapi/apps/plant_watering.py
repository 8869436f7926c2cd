#!/usr/bin/env python3
# waters only if the camera really sees a plant
import argparse
import subprocess
from datetime import datetime
from google.cloud import vision

parser = argparse.ArgumentParser()
parser.add_argument('--image', default='plant.jpg')
parser.add_argument('--min-score', type=float, default=0.7)
parser.add_argument('--keywords', nargs='+', default=['Plant', 'Houseplant', 'Flower', 'Leaf'])
args = parser.parse_args()

def sees_plant(filename):
    client = vision.ImageAnnotatorClient()
    with open(filename, 'rb') as f:
        image = vision.Image(content=f.read())
    result = client.label_detection(image=image)
    found = False
    for annotation in result.label_annotations:
        if annotation.score < args.min_score:
            continue
        if annotation.description in args.keywords:
            found = True
    return found

subprocess.call(['fswebcam', args.image])
if sees_plant(args.image):
    print(datetime.now(), 'watering')
    subprocess.call(['python', 'pump.py', '--seconds', '4'])
else:
    print(datetime.now(), 'no plant in sight')
