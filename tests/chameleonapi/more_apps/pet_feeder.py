import RPi.GPIO as GPIO
import time
from picamera import PiCamera
from google.cloud import vision
from google.cloud.vision import types
import os
camera = PiCamera()
client = vision.ImageAnnotatorClient()
GPIO.setmode(GPIO.BOARD)
GPIO.setup(11, GPIO.OUT)
GPIO.setup(7, GPIO.IN)
cat_detected = False
dog_detected = False
def feed(portion):
    GPIO.output(11, True)
    time.sleep(portion)
    GPIO.output(11, False)
while True:
    if GPIO.input(7):
        camera.capture('/home/pi/pet.jpg')
        with open('/home/pi/pet.jpg', 'rb') as image_file:
            content = image_file.read()
        image = types.Image(content=content)
        response = client.label_detection(image=image)
        labels = response.label_annotations
        cat_detected = False
        dog_detected = False
        for label in labels:
            if 'cat' in label.description.lower():
                cat_detected = True
            if 'dog' in label.description.lower():
                dog_detected = True
        if dog_detected:
            feed(3)
        elif cat_detected:
            feed(1.5)
        else:
            print('intruder')
    time.sleep(0.2)
