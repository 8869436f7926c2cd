# shows a picture with the webcam and asks to find a thing of the given colour
import cv2, random, time
from google.cloud import vision

client = vision.ImageAnnotatorClient()
targets = ['Cup', 'Book', 'Pen', 'Shoe']


def photo():
    cam = cv2.VideoCapture(0)
    ok, frame = cam.read()
    cam.release()
    cv2.imwrite('frame.jpg', frame)
    with open('frame.jpg', 'rb') as f:
        return f.read()


def check():
    found = False
    labels = client.label_detection(image=vision.Image(content=photo())).label_annotations
    i = 0
    while i < len(labels):
        if labels[i].description in targets and labels[i].score > 0.65:
            found = True
            break
        i += 1
    return found


while True:
    if check():
        print('well done')
        time.sleep(5)
    else:
        print('try again')
