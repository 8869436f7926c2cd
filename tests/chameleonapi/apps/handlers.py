# label -> handler functions, registered by a decorator
import boto3
from paho.mqtt import publish

HANDLERS = {}


def on(*names):
    def register(func):
        for n in names:
            HANDLERS[n] = func
        return func
    return register


@on("Person", "Human", "Man", "Woman")
def lights():
    publish.single("home/porch/light", "ON")


@on("Car", "Truck")
def garage():
    publish.single("home/garage/door", "OPEN")


@on("Dog", "Cat")
def feeder():
    publish.single("home/feeder", "DISPENSE")


def lambda_handler(event, context):
    rekognition = boto3.client("rekognition")
    result = rekognition.detect_labels(
        Image={"S3Object": {"Bucket": event["bucket"], "Name": event["key"]}},
        MinConfidence=80,
    )
    for label in result["Labels"]:
        handler = HANDLERS.get(label["Name"])
        if handler is not None:
            handler()
    return "done"
