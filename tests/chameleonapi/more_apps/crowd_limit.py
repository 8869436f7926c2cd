import boto3
def crowd(img):
    r = boto3.client('rekognition').detect_labels(Image={'Bytes': img}, MinConfidence=80)
    people = 0
    for label in r['Labels']:
        if label['Name'] == 'Person':
            people = len(label['Instances'])
    if people > 5:
        return 'too many'
    return 'ok'
