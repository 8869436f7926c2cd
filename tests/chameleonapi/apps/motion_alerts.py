# people write such things: main with menu, counts, two clients
import sys, os, json, datetime
import boto3
from botocore.exceptions import ClientError

S3 = boto3.client('s3')
REK = boto3.client('rekognition', region_name=os.getenv('AWS_REGION', 'us-east-1'))
SNS = boto3.client('sns')
TOPIC = os.environ['TOPIC_ARN']
ALERT_LABELS = [x.strip() for x in os.environ.get('ALERT_LABELS', 'Person, Car, Dog').split(',')]
MIN = int(os.environ.get('MIN_CONFIDENCE', 80))

def get_labels(bucket, key):
    try:
        resp = REK.detect_labels(Image={'S3Object': {'Bucket': bucket, 'Name': key}}, MaxLabels=10, MinConfidence=MIN)
    except ClientError as e:
        print(e.response['Error']['Message'])
        return []
    return resp.get('Labels', [])

def handler(event, context):
    for rec in event.get('Records', []):
        bucket = rec['s3']['bucket']['name']
        key = rec['s3']['object']['key']
        labels = get_labels(bucket, key)
        matches = [l for l in labels if l['Name'] in ALERT_LABELS]
        if matches:
            names = ', '.join('{} ({:.1f}%)'.format(m['Name'], m['Confidence']) for m in matches)
            SNS.publish(TopicArn=TOPIC, Subject='Motion', Message='Detected: ' + names)
            S3.copy_object(Bucket=bucket, CopySource={'Bucket': bucket, 'Key': key}, Key='alerts/' + key)
        S3.delete_object(Bucket=bucket, Key=key)
    return {'ok': True}
