import os, pygame
from google.cloud import vision
pygame.mixer.init()
def f(c):
    for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=c)).label_annotations:
        p = 'sounds/' + l.description.lower() + '.wav'
        if os.path.exists(p):
            pygame.mixer.Sound(p).play()
            break
f(open('x','rb').read())
