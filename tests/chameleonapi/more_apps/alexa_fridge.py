import logging
from flask import Flask
from flask_ask import Ask, statement, question, session
import boto3
import picamera

app = Flask(__name__)
ask = Ask(app, "/")
logging.getLogger("flask_ask").setLevel(logging.DEBUG)

FRUITS = ["Apple", "Banana", "Orange", "Lemon"]
VEG = ["Carrot", "Broccoli", "Tomato", "Potato"]
DAIRY = ["Milk", "Cheese", "Butter", "Yogurt"]

def take():
    with picamera.PiCamera() as cam:
        cam.capture("/tmp/fridge.jpg")
    return open("/tmp/fridge.jpg", "rb").read()

@ask.intent("InventoryIntent")
def inventory():
    client = boto3.client("rekognition", "us-west-2")
    labels = [x["Name"] for x in client.detect_labels(Image={"Bytes": take()}, MinConfidence=70)["Labels"]]
    have = []
    if set(labels).intersection(FRUITS):
        have.append("fruit")
    if set(labels).intersection(VEG):
        have.append("vegetables")
    if set(labels).intersection(DAIRY):
        have.append("dairy")
    if not have:
        return statement("Your fridge is empty")
    return statement("You have " + " and ".join(have))

if __name__ == '__main__':
    app.run(debug=True)
