# two routes share one helper and take different decisions; a third looks at text
from flask import Flask, request, jsonify
import boto3

app = Flask(__name__)
rek = boto3.client('rekognition')
comprehend = boto3.client('comprehend')


def get_labels(data):
    return [l['Name'] for l in rek.detect_labels(Image={'Bytes': data}, MaxLabels=10)['Labels']]


@app.route('/is_food', methods=['POST'])
def is_food():
    labels = get_labels(request.data)
    return jsonify({'food': 'Food' in labels or 'Meal' in labels})


@app.route('/scene', methods=['POST'])
def scene():
    labels = get_labels(request.data)
    if 'Beach' in labels:
        return jsonify({'scene': 'beach'})
    elif 'Mountain' in labels:
        return jsonify({'scene': 'mountain'})
    elif 'City' in labels or 'Urban area' in labels:
        return jsonify({'scene': 'city'})
    return jsonify({'scene': None})


@app.route('/comment', methods=['POST'])
def comment():
    out = comprehend.detect_sentiment(Text=request.form['text'], LanguageCode='en')
    scores = out['SentimentScore']
    if scores['Negative'] > 0.8:
        return jsonify({'status': 'held'})
    return jsonify({'status': 'published'})
