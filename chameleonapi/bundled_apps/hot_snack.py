import sys
from google.cloud import vision

WARM = ["Pizza", "Sandwich", "Croissant", "Doughnut"]


def labels_of(path):
    client = vision.ImageAnnotatorClient()
    with open(path, "rb") as image_file:
        image = vision.Image(content=image_file.read())
    response = client.label_detection(image=image)
    if response.error.message:
        raise Exception(response.error.message)
    return [label.description for label in response.label_annotations]


found = labels_of(sys.argv[1])
if any(name in WARM for name in found):
    print("keep the heater on")
else:
    print("heater off")
