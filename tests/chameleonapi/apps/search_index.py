# photo search: every label goes into the index
import json
import boto3
import requests
from datetime import datetime

rek = boto3.client('rekognition')

def lambda_handler(event, context):
    for record in event['Records']:
        bucket = record['s3']['bucket']['name']
        key = record['s3']['object']['key']
        found = rek.detect_labels(Image={'S3Object': {'Bucket': bucket, 'Name': key}}, MaxLabels=100, MinConfidence=75)
        doc = {'objectKey': key, 'createTimestamp': datetime.now().isoformat(), 'labels': []}
        for label in found['Labels']:
            if label['Name'] not in doc['labels']:
                doc['labels'].append(label['Name'])
        requests.post('https://search/photos/photo/', data=json.dumps(doc), headers={'Content-Type': 'application/json'})
    return {'statusCode': 200}
