"""Self-service scale: ask for the fruit menu only if there is fruit on it."""
import boto3

FRUIT = {"Apple", "Orange", "Tomato", "Banana"}


def is_fruit(photo_path):
    rekognition = boto3.client("rekognition", region_name="eu-west-1")
    with open(photo_path, "rb") as photo:
        answer = rekognition.detect_labels(Image={"Bytes": photo.read()}, MaxLabels=10)
    names = {label["Name"] for label in answer["Labels"]}
    return bool(names & FRUIT)
