import glob
from google.cloud import vision

client = vision.ImageAnnotatorClient()

def count_cars(path):
    with open(path, 'rb') as f:
        objects = client.object_localization(image=vision.Image(content=f.read())).localized_object_annotations
    n = 0
    for o in objects:
        if o.name in ['Car', 'Truck', 'Bus', 'Van']:
            n += 1
    return n

for path in glob.glob('frames/*.jpg'):
    n = count_cars(path)
    if n >= 8:
        print(path, 'traffic jam')
    elif n >= 3:
        print(path, 'busy')
    else:
        print(path, 'free')
