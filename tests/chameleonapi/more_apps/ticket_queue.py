import boto3
import json
import os
from datetime import datetime

comprehend = boto3.client(service_name='comprehend', region_name='us-east-1')
dynamodb = boto3.resource('dynamodb')
table = dynamodb.Table(os.environ['TABLE_NAME'])
sqs = boto3.client('sqs')

QUEUES = {
    'NEGATIVE': 'https://sqs/urgent',
    'MIXED': 'https://sqs/review',
}


def handler(event, context):
    body = json.loads(event['body'])
    text = body['message'][:4900]
    result = comprehend.detect_sentiment(Text=text, LanguageCode='en')
    sentiment = result['Sentiment']
    score = result['SentimentScore'][sentiment.capitalize()]
    table.put_item(Item={'id': body['id'], 'ts': datetime.utcnow().isoformat(), 'sentiment': sentiment, 'score': str(score)})
    queue = QUEUES.get(sentiment)
    if queue is not None:
        sqs.send_message(QueueUrl=queue, MessageBody=text)
    return {'statusCode': 200, 'body': json.dumps({'ok': True})}
