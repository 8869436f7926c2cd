from abc import ABC, abstractmethod
from google.cloud import vision

REGISTRY = {}

def register(*names):
    def wrap(cls):
        for n in names:
            REGISTRY[n] = cls
        return cls
    return wrap

class Action(ABC):
    @abstractmethod
    def run(self, bot): ...

@register('Dog', 'Puppy')
class Bark(Action):
    def run(self, bot):
        bot.play('bark.wav')

@register('Cat', 'Kitten')
class Meow(Action):
    def run(self, bot):
        bot.play('meow.wav')

class Robot:
    def __init__(self, speaker):
        self.speaker = speaker
        self.vision = vision.ImageAnnotatorClient()
    def play(self, f):
        self.speaker.play(f)
    def look(self, frame):
        resp = self.vision.label_detection(image=vision.Image(content=frame))
        for ann in resp.label_annotations:
            cls = REGISTRY.get(ann.description)
            if cls:
                cls().run(self)
                return

if __name__ == '__main__':
    import pygame, cv2
    cap = cv2.VideoCapture(0)
    r = Robot(pygame.mixer)
    while cap.isOpened():
        ok, frame = cap.read()
        if not ok:
            break
        r.look(cv2.imencode('.jpg', frame)[1].tobytes())
