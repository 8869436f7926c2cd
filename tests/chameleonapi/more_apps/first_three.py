from google.cloud import vision
client = vision.ImageAnnotatorClient()
def is_bird(data):
    l = client.label_detection(image=vision.Image(content=data)).label_annotations
    if l[0].description == 'Bird' or l[1].description == 'Bird' or l[2].description == 'Bird':
        return 1
    return 0
