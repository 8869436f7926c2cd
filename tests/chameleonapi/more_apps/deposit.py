from google.cloud import vision
def deposit(data):
    names = [l.description.lower() for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=data)).label_annotations]
    if all(x in names for x in ('bottle', 'plastic')):
        return 0.25
    if 'glass bottle' in names:
        return 0.15
    return 0
