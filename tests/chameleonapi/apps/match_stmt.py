import sys
from google.cloud import vision

client = vision.ImageAnnotatorClient()
with open(sys.argv[1], 'rb') as f:
    annotations = client.label_detection(image=vision.Image(content=f.read())).label_annotations

action = None
for a in annotations:
    match a.description:
        case 'Dog' | 'Wolf':
            action = 'bark'
        case 'Cat' | 'Kitten':
            action = 'meow'
        case _:
            continue
    break
print(action or 'silence')
