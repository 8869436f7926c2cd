from google.cloud import vision


def is_apple(content):
    response = vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=content))
    return any(label.description == "Apple" for label in response.label_annotations)
