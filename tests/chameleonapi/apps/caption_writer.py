import boto3
import openai

def caption(bucket, key):
    labels = boto3.client('rekognition').detect_labels(Image={'S3Object': {'Bucket': bucket, 'Name': key}})['Labels']
    words = ', '.join(l['Name'] for l in labels if l['Confidence'] > 80)
    answer = openai.ChatCompletion.create(model='gpt-3.5-turbo', messages=[{'role': 'user', 'content': f'Write an Instagram caption for: {words}'}])
    return answer.choices[0].message.content

def handler(event, context):
    return {'caption': caption(event['bucket'], event['key'])}
