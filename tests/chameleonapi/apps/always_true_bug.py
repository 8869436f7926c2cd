from google.cloud import vision
from gtts import gTTS

def describe(path):
    client = vision.ImageAnnotatorClient()
    image = vision.Image(content=open(path, 'rb').read())
    for label in client.label_detection(image=image).label_annotations:
        if label.description == "Hair" or "Woman":
            gTTS(text="I see a person", lang="en").save("out.mp3")
            break

describe("now.jpg")
