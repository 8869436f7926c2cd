import cv2, time
import boto3
from gpiozero import Servo

MIN_CONF = 85

class PetDoor(object):
    """Opens for cats and dogs only."""

    def __init__(self, pin=17, region='us-east-1'):
        self.servo = Servo(pin)
        self.rek = boto3.client('rekognition', region_name=region)
        self.last_open = 0

    def _labels(self, frame):
        ok, buf = cv2.imencode('.jpg', frame)
        if not ok:
            return []
        return self.rek.detect_labels(Image={'Bytes': buf.tobytes()}, MaxLabels=10)['Labels']

    def check(self, frame):
        for label in self._labels(frame):
            if label['Name'] in ('Cat', 'Dog') and label['Confidence'] >= MIN_CONF:
                self.open()
                break

    def open(self):
        self.servo.max()
        time.sleep(5)
        self.servo.min()
        self.last_open = time.time()


def run():
    door = PetDoor()
    cap = cv2.VideoCapture(0)
    while True:
        ret, frame = cap.read()
        if not ret:
            break
        door.check(frame)
        time.sleep(1)
    cap.release()

run()
