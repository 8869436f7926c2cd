"""Cozmo-like robot: says hello to pets, picks up toys, avoids stairs."""
import re
import threading
from concurrent.futures import ThreadPoolExecutor

from google.cloud import vision

PATTERNS = [
    (re.compile(r"\b(dog|cat|puppy|kitten)\b", re.I), "greet"),
    (re.compile(r"\b(toy|doll|lego|ball)\b", re.I), "pick_up"),
    (re.compile(r"stairs?|ladder", re.I), "turn_back"),
]


class Eyes:
    def __init__(self):
        self._client = vision.ImageAnnotatorClient()
        self._pool = ThreadPoolExecutor(max_workers=2)

    def _look(self, jpeg):
        resp = self._client.label_detection({"content": jpeg})
        return resp.label_annotations

    def look(self, jpeg):
        return self._pool.submit(self._look, jpeg).result(timeout=10)


class Robot:
    def __init__(self, eyes, body):
        self.eyes, self.body = eyes, body

    def step(self):
        annotations = self.eyes.look(self.body.camera.jpeg())
        names = [a.description for a in annotations]
        for pattern, action in PATTERNS:
            if any(pattern.search(n) for n in names):
                getattr(self.body, action)()
                return action
        self.body.wander()
        return "wander"


if __name__ == "__main__":
    import cozmolib
    robot = Robot(Eyes(), cozmolib.connect())
    t = threading.Thread(target=robot.step)
    t.start()
    t.join()
