import boto3

rek = boto3.client('rekognition')

def has_animal(img):
    for label in rek.detect_labels(Image={'Bytes': img})['Labels']:
        for parent in label['Parents']:
            if parent['Name'] == 'Animal':
                return True
    return False
