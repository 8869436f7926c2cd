# opens when a person and a uniform are seen, but never when there is a weapon
import boto3
import requests
from time import sleep

rekognition = boto3.client('rekognition', 'us-east-1')
LOCK_URL = 'http://10.0.0.7/lock'

def check(image_bytes):
    response = rekognition.detect_labels(Image={'Bytes': image_bytes}, MaxLabels=30)
    seen = [label['Name'] for label in response['Labels']]
    if 'Person' in seen and 'Uniform' in seen and 'Weapon' not in seen:
        return True
    return False

def main():
    while True:
        snapshot = requests.get('http://10.0.0.8/snapshot.jpg').content
        if check(snapshot):
            requests.post(LOCK_URL, json={'state': 'open'})
        sleep(2)

if __name__ == '__main__':
    main()
