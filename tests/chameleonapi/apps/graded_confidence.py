import boto3

def handler(event, context):
    rek = boto3.client('rekognition')
    labels = rek.detect_labels(Image={'S3Object': {'Bucket': 'cams', 'Name': event['name']}})['Labels']
    for l in labels:
        if l['Name'] == 'Fire':
            if l['Confidence'] > 90:
                return 'evacuate'
            elif l['Confidence'] > 60:
                return 'check'
    return 'calm'
