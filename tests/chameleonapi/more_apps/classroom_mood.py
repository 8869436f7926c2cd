import boto3
from collections import Counter
rek = boto3.client('rekognition')
def classroom(img):
    r = rek.detect_faces(Image={'Bytes': img}, Attributes=['ALL'])
    moods = Counter()
    for face in r['FaceDetails']:
        top = sorted(face['Emotions'], key=lambda e: -e['Confidence'])[0]
        moods[top['Type']] += 1
    if not moods:
        return 'empty'
    mood, n = moods.most_common(1)[0]
    if mood in ('CONFUSED', 'SAD'):
        return 'slow down'
    return 'go on'
