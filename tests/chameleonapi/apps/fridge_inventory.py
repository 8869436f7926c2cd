from flask import Flask, request, jsonify
from google.cloud import vision
import sqlite3

app = Flask(__name__)

FRUITS = ['Apple', 'Banana', 'Orange', 'Pear', 'Strawberry']
VEGGIES = ['Carrot', 'Broccoli', 'Tomato', 'Cucumber', 'Bell pepper']
DAIRY = ['Milk', 'Cheese', 'Yogurt', 'Butter']


def get_objects(content):
    client = vision.ImageAnnotatorClient()
    image = vision.Image(content=content)
    objects = client.object_localization(image=image).localized_object_annotations
    return [o for o in objects if o.score > 0.6]


@app.route('/shelf', methods=['POST'])
def shelf():
    if 'photo' not in request.files:
        return jsonify(error='no photo'), 400
    objects = get_objects(request.files['photo'].read())
    names = [o.name for o in objects]
    result = {'fruit': False, 'vegetables': False, 'dairy': False}
    if any(n in FRUITS for n in names):
        result['fruit'] = True
    if any(n in VEGGIES for n in names):
        result['vegetables'] = True
    if any(n in DAIRY for n in names):
        result['dairy'] = True
    db = sqlite3.connect('fridge.db')
    db.execute('INSERT INTO log VALUES (?, ?, ?)', (result['fruit'], result['vegetables'], result['dairy']))
    db.commit()
    return jsonify(result)


if __name__ == '__main__':
    app.run(host='0.0.0.0', port=5000, debug=True)
