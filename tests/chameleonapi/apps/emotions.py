import boto3
import random

PLAYLISTS = {'HAPPY': 'party', 'SAD': 'comfort', 'ANGRY': 'calm down', 'CALM': 'focus'}

def playlist_for(photo):
    client = boto3.client('rekognition')
    response = client.detect_faces(Image={'Bytes': photo}, Attributes=['ALL'])
    for face in response['FaceDetails']:
        emotions = sorted(face['Emotions'], key=lambda e: e['Confidence'], reverse=True)
        top = emotions[0]['Type']
        return PLAYLISTS.get(top, 'radio')
    return None
