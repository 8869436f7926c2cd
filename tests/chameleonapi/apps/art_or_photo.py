import boto3, sys

def top_label(img):
    rek = boto3.client('rekognition')
    labels = rek.detect_labels(Image={'Bytes': img}, MaxLabels=5)['Labels']
    best = max(labels, key=lambda l: l['Confidence'])
    return best['Name']

with open(sys.argv[1], 'rb') as source:
    name = top_label(source.read())
kind = 'art' if name in ['Painting', 'Drawing', 'Sketch', 'Art'] else 'photo'
print(kind)
