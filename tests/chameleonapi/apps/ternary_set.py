from google.cloud import vision
FOOD = "pizza,burger,hamburger,french fries,hot dog".split(",")
DRINK = ["coffee", "tea", "juice", "wine", "beer"]
def kind(uri):
    c = vision.ImageAnnotatorClient()
    img = vision.Image(); img.source.image_uri = uri
    ls = [x.description.lower() for x in c.label_detection(image=img, max_results=5).label_annotations]
    food, drink = any(f in ls for f in FOOD), any(d in ls for d in DRINK)
    return "meal" if food and drink else "food" if food else "drink" if drink else None
