# last label wins: colour of the LED strip by what lies on the desk
from google.cloud import vision
import neopixel, board, io

pixels = neopixel.NeoPixel(board.D18, 30)
client = vision.ImageAnnotatorClient()

def colour_for(path):
    with io.open(path, 'rb') as f:
        img = vision.types.Image(content=f.read())
    labels = client.label_detection(image=img).label_annotations
    colour = (0, 0, 0)
    for label in labels:
        desc = label.description
        if desc == 'Book' or desc == 'Notebook':
            colour = (255, 255, 255)
        elif desc == 'Coffee' or desc == 'Cup' or desc == 'Coffee cup':
            colour = (255, 120, 0)
        elif desc == 'Toy' or desc == 'Lego':
            colour = (0, 255, 0)
    return colour

pixels.fill(colour_for('desk.jpg'))
