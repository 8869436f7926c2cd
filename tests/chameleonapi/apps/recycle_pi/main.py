import io
from picamera import PiCamera
from google.cloud import vision
import config
from bins import open_lid

camera = PiCamera()


def label_image(path):
    client = vision.ImageAnnotatorClient()
    with io.open(path, 'rb') as image_file:
        content = image_file.read()
    resp = client.label_detection(image=vision.types.Image(content=content))
    return resp.label_annotations


def which_bin(labels):
    # look through the labels from the most to the least certain
    for label in labels:
        words = label.description.lower().split()
        for w in words:
            if w in config.RECYCLE:
                return "recycle"
            if w in config.COMPOST:
                return "compost"
            if w in config.DONATE:
                return "donate"
    return "trash"


if __name__ == '__main__':
    while True:
        raw_input("press enter when item is on the plate")
        camera.capture('/tmp/item.jpg')
        target = which_bin(label_image('/tmp/item.jpg'))
        print("-> %s" % target)
        open_lid(target)
