from google.cloud import vision
import sys

client = vision.ImageAnnotatorClient()
image = vision.Image()
image.source.image_uri = sys.argv[1]
labels = client.label_detection(image=image).label_annotations

first = labels[0].description
second = labels[1].description
third = labels[2].description
best = [first, second, third]

if "Car" in best or "Vehicle" in best:
    print("send to the garage album")
elif "Dog" in best:
    print("send to the dog album")
else:
    print("leave it")
