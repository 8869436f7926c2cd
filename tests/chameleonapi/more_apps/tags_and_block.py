from flask import Flask, request, jsonify
from google.cloud import vision
app = Flask(__name__)
TAGS = {'beach': ['Beach', 'Sea', 'Sand'], 'city': ['City', 'Skyscraper', 'Street'], 'food': ['Food', 'Dish']}
@app.route('/', methods=['POST'])
def index():
    labels = vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=request.data)).label_annotations
    names = [l.description for l in labels]
    tags = [t for t, words in TAGS.items() if any(w in names for w in words)]
    blocked = 'Weapon' in names or 'Gun' in names
    return jsonify({'tags': tags, 'blocked': blocked})
