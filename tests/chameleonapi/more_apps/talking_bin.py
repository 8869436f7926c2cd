# talking bin
import pyttsx3
import RPi.GPIO as GPIO
import time
from google.cloud import vision
engine = pyttsx3.init()
RECYCLE = ['Bottle', 'Tin can', 'Paper']
FOOD = ['Banana', 'Apple', 'Bread']
def turn(deg):
    p = GPIO.PWM(12, 50)
    p.start(2.5 + 10 * deg / 180.0)
    time.sleep(1)
    p.stop()
def sort(img):
    labels = vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=img)).label_annotations
    for l in labels:
        if l.description in RECYCLE:
            engine.say('I found a ' + l.description + ', that is recyclable')
            engine.runAndWait()
            turn(0)
            return
        if l.description in FOOD:
            engine.say('I found a ' + l.description + ', that is compost')
            engine.runAndWait()
            turn(180)
            return
    engine.say('Landfill')
    engine.runAndWait()
sort(open('t.jpg', 'rb').read())
