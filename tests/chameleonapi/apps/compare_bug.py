import io
import os
from google.cloud import vision

client = vision.ImageAnnotatorClient()

def run(path):
    with io.open(path, 'rb') as image_file:
        content = image_file.read()
    image = vision.Image(content=content)
    labels = client.label_detection(image=image).label_annotations
    # BUG: labels are annotation objects, not strings
    if 'Food' in labels:
        os.system('mpg321 yummy.mp3')
    else:
        os.system('mpg321 boring.mp3')

run('snap.jpg')
