import boto3
class Review:
    def __init__(self, text): self.text = text
def analyze(text):
    client = boto3.client('comprehend')
    s = client.detect_sentiment(Text=text, LanguageCode='en')
    mood = s['Sentiment']
    emoji = {'POSITIVE': ':)', 'NEGATIVE': ':(', 'NEUTRAL': ':|', 'MIXED': ':/'}
    return emoji[mood]
def lambda_handler(event, ctx):
    return analyze(event['text'])
