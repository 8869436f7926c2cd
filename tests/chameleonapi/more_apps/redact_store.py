import boto3
comprehend = boto3.client('comprehend', region_name='eu-west-1')
PRIVATE = ['PERSON', 'DATE', 'LOCATION']
def redact(text):
    found = comprehend.detect_entities(Text=text, LanguageCode='en')['Entities']
    flags = []
    for e in found:
        if e['Type'] in PRIVATE and e['Score'] > 0.9:
            text = text.replace(e['Text'], '***')
            flags.append(True)
    if flags:
        return 'internal', text
    return 'public', text
def handler(event, ctx):
    kind, text = redact(event['text'])
    boto3.client('s3').put_object(Bucket=kind, Key=event['id'], Body=text)
