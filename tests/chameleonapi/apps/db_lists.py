import sqlite3
from google.cloud import vision

def allowed():
    rows = sqlite3.connect('shop.db').execute('SELECT word FROM allowed').fetchall()
    return [r[0] for r in rows]

def accept(path):
    client = vision.ImageAnnotatorClient()
    labels = client.label_detection(image=vision.Image(content=open(path, 'rb').read())).label_annotations
    words = allowed()
    for label in labels:
        if label.description.lower() in words:
            return True
    return False
