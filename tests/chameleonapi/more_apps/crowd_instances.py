import boto3
def lambda_handler(event, context):
    rek = boto3.client('rekognition')
    r = rek.detect_labels(Image={'S3Object': {'Bucket': event['b'], 'Name': event['k']}}, MinConfidence=50)
    n = 0
    for l in r['Labels']:
        if l['Name'] == 'Person':
            n = len(l['Instances'])
    if n > 10:
        return 'overcrowded'
    elif n > 0:
        return 'ok'
    return 'empty'
