import cv2
import time
import threading
from google.cloud import vision
from google.cloud.vision import types
import pyttsx3

class SmartMirror(object):
    CLOTHES_WARM = ['Jacket', 'Coat', 'Sweater', 'Scarf']
    CLOTHES_COLD = ['T-shirt', 'Shorts', 'Dress']

    def __init__(self):
        self.cam = cv2.VideoCapture(0)
        self.client = vision.ImageAnnotatorClient()
        self.engine = pyttsx3.init()
        self.temperature = self.fetch_temperature()

    def fetch_temperature(self):
        import requests
        r = requests.get("https://api.openweathermap.org/data/2.5/weather?q=Boston").json()
        return r['main']['temp'] - 273.15

    def snapshot(self):
        _, frame = self.cam.read()
        cv2.imwrite('frame.png', frame)
        return open('frame.png', 'rb').read()

    def wearing(self):
        response = self.client.label_detection(image=types.Image(content=self.snapshot()))
        warm = cold = False
        for label in response.label_annotations:
            if label.description in self.CLOTHES_WARM:
                warm = True
            elif label.description in self.CLOTHES_COLD:
                cold = True
        return warm, cold

    def say(self, text):
        self.engine.say(text)
        self.engine.runAndWait()

    def run(self):
        while True:
            warm, cold = self.wearing()
            if warm:
                self.say('You are dressed warm')
            elif cold:
                self.say('You are dressed light')
            time.sleep(10)

if __name__ == '__main__':
    m = SmartMirror()
    t = threading.Thread(target=m.run)
    t.daemon = True
    t.start()
    t.join()
