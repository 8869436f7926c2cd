import boto3

WEIGHTS = {'Cigarette': -5, 'Beer': -3, 'Pizza': -2, 'Salad': 3, 'Running': 4, 'Fruit': 2, 'Vegetable': 3}

def handler(event, context):
    labels = boto3.client('rekognition').detect_labels(Image={'S3Object': event['image']})['Labels']
    total = sum(WEIGHTS.get(l['Name'], 0) * l['Confidence'] for l in labels)
    return 'thumbs up' if total > 0 else 'thumbs down'
