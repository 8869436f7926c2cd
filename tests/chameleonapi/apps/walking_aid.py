import pyttsx3
from google.cloud import vision

ROAD = ["highway", "lane", "road", "car", "motor vehicle", "bicycle", "truck", "traffic"]

def describe(image_path):
    client = vision.ImageAnnotatorClient()
    with open(image_path, 'rb') as f:
        return client.label_detection(image=vision.Image(content=f.read())).label_annotations

def check_road(labels, engine):
    road_count = sum(1 for label in labels if label.description.lower() in ROAD)
    car_count = sum(1 for label in labels if label.description.lower() == "car")
    if road_count >= 1:
        if car_count >= 1:
            engine.say("You are on a road with vehicles. Beware!")
        else:
            engine.say("You are on a quiet road.")
    else:
        engine.say("I cannot see a road.")
    engine.runAndWait()

def main(image_path):
    engine = pyttsx3.init()
    check_road(describe(image_path), engine)

if __name__ == "__main__":
    main("walk.jpg")
