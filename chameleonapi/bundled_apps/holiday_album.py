import sys
from google.cloud import vision

ALBUMS = {
    "food": ["Pizza", "Sandwich", "Cheese", "Croissant"],
    "beach": ["Starfish", "Ball", "Kite"],
    "garden": ["Flower", "Sunflower", "Leaf", "Bench"],
}

client = vision.ImageAnnotatorClient()
with open(sys.argv[1], "rb") as f:
    response = client.label_detection(image=vision.Image(content=f.read()), max_results=15)
names = [x.description for x in response.label_annotations]
for album, words in ALBUMS.items():
    if any(word in names for word in words):
        print("added to", album)
