import time
import RPi.GPIO as GPIO
from config import SERVO

GPIO.setmode(GPIO.BCM)
for pin in SERVO.values():
    GPIO.setup(pin, GPIO.OUT)


def open_lid(which):
    pin = SERVO[which]
    pwm = GPIO.PWM(pin, 50)
    pwm.start(2.5)
    time.sleep(1)
    pwm.ChangeDutyCycle(7.5)
    time.sleep(3)
    pwm.stop()
