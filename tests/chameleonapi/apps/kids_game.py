# scavenger hunt: which of the things did the kid find?
from google.cloud import vision
import pygame

def found_things(filename):
    client = vision.ImageAnnotatorClient()
    with open(filename, 'rb') as image_file:
        image = vision.Image(content=image_file.read())
    labels = client.label_detection(image=image).label_annotations
    texts = [label.description for label in labels]
    found = []
    if 'Leaf' in texts or 'Tree' in texts:
        found.append('something from a tree')
    if 'Insect' in texts or 'Spider' in texts or 'Worm' in texts:
        found.append('a crawling thing')
    if 'Rock' in texts or 'Stone' in texts:
        found.append('a stone')
    if 'Feather' in texts:
        found.append('a feather')
    return found

def play():
    pygame.camera.init()
    cam = pygame.camera.Camera('/dev/video0', (640, 480))
    cam.start()
    pygame.image.save(cam.get_image(), 'now.jpg')
    things = found_things('now.jpg')
    print('You found: ' + ', '.join(things))

play()
