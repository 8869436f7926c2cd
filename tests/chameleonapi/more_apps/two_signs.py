import boto3
SIGNS = {'Smoke', 'Fire', 'Flame', 'Bonfire'}
def burning(data):
    found = {l['Name'] for l in boto3.client('rekognition').detect_labels(Image={'Bytes': data}, MinConfidence=60)['Labels']}
    return len(found & SIGNS) >= 2
