# healthy or junk? adds the scores up
from google.cloud import vision

HEALTHY = ['Salad', 'Fruit', 'Vegetable', 'Water']
JUNK = ['Pizza', 'Hamburger', 'French fries', 'Soft drink', 'Candy']

def verdict(path):
    client = vision.ImageAnnotatorClient()
    image = vision.Image(content=open(path, 'rb').read())
    good = bad = 0
    for label in client.label_detection(image=image).label_annotations:
        if label.description in HEALTHY:
            good += label.score
        if label.description in JUNK:
            bad += label.score
    return 'healthy' if good >= bad else 'junk'

print(verdict('plate.jpg'))
