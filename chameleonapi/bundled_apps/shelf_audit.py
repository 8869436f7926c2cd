"""Ticks what a shelf photo shows."""
from google.cloud import vision

WANTED = {"fresh": {"Fruit", "Vegetables"}, "dairy": {"Milk", "Yoghurt", "Sour-Cream"}, "drinks": {"Juice"}}


def audit(content):
    response = vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=content), max_results=15)
    names = {label.description for label in response.label_annotations}
    return {shelf: bool(names & wanted) for shelf, wanted in WANTED.items()}
