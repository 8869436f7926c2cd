import boto3, json

comprehend = boto3.client(service_name='comprehend', region_name='us-west-2')

QUEUES = {'NEGATIVE': 'urgent', 'MIXED': 'normal', 'NEUTRAL': 'normal', 'POSITIVE': 'thanks'}


def route(ticket):
    result = comprehend.detect_sentiment(Text=ticket['body'], LanguageCode='en')
    queue = QUEUES.get(result['Sentiment'], 'normal')
    if queue == 'urgent' and result['SentimentScore']['Negative'] < 0.7:
        queue = 'normal'
    ticket['queue'] = queue
    return ticket


def lambda_handler(event, _):
    return json.dumps([route(t) for t in event['tickets']])
