import json
import boto3

rekognition = boto3.client('rekognition')
sns = boto3.client('sns')
TOPIC = 'arn:aws:sns:eu-west-1:1:alerts'
PEOPLE = ['Person', 'Human', 'Man', 'Woman']
VEHICLES = ['Car', 'Truck', 'Van', 'Motorcycle']


def lambda_handler(event, context):
    record = event['Records'][0]['s3']
    response = rekognition.detect_labels(
        Image={'S3Object': {'Bucket': record['bucket']['name'], 'Name': record['object']['key']}},
        MaxLabels=10, MinConfidence=80)
    names = [x['Name'] for x in response['Labels']]
    person = len([n for n in names if n in PEOPLE]) > 0
    vehicle = bool(list(filter(lambda n: n in VEHICLES, names)))
    if person and vehicle:
        message = 'somebody arrived by car'
    elif person:
        message = 'somebody at the door'
    elif vehicle:
        message = 'a vehicle'
    else:
        return {'statusCode': 200, 'body': 'nothing'}
    sns.publish(TopicArn=TOPIC, Message=message)
    return {'statusCode': 200, 'body': json.dumps(message)}
