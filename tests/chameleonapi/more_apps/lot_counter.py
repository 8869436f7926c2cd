import boto3
import json
VEHICLES = ['Car', 'Truck', 'Van', 'Bus', 'Motorcycle']
def lambda_handler(event, context):
    rek = boto3.client('rekognition')
    resp = rek.detect_labels(Image={'S3Object': {'Bucket': 'cam', 'Name': event['key']}}, MinConfidence=55)
    n = 0
    for label in resp['Labels']:
        if label['Name'] in VEHICLES:
            n += len(label['Instances'])
    iot = boto3.client('iot-data')
    iot.publish(topic='lot/free', payload=json.dumps({'free': 10 - n}))
    return {'full': n >= 10}
