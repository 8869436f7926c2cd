# beeps when the dash cam sees a sign
from google.cloud import vision


class SignWatcher:
    KEYWORD = "sign"

    def __init__(self):
        self.client = vision.ImageAnnotatorClient()

    def check(self, content):
        response = self.client.label_detection(image=vision.Image(content=content))
        for label in response.label_annotations:
            if self.KEYWORD in label.description.lower():
                return True
        return False
