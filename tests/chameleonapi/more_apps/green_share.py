import boto3
r = boto3.client('rekognition').detect_labels(Image={'Bytes': open('x','rb').read()})['Labels']
g = [l for l in r if l['Name'] in ('Plant', 'Tree', 'Grass')]
if len(r) and len(g) / len(r) > 0.3:
    print('green')
else:
    print('grey')
