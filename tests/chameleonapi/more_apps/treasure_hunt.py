from flask import Flask, request, jsonify
from google.cloud import vision
app = Flask(__name__)
@app.route('/hunt', methods=['POST'])
def hunt():
    goal = request.form['item'].lower()
    labels = vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=request.files['pic'].read())).label_annotations
    for label in labels:
        if goal in label.description.lower():
            return jsonify(found=True)
    return jsonify(found=False)
