import boto3
rek = boto3.client('rekognition')
def names(p): return {l['Name'] for l in rek.detect_labels(Image={'Bytes': open(p,'rb').read()})['Labels']}
a, b = names('a.jpg'), names('b.jpg')
if len(a & b) / max(1, len(a | b)) > 0.5:
    print('similar')
else:
    print('different')
