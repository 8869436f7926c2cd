import boto3
rek = boto3.client('rekognition')
cats = 0
for fn in ['1.jpg', '2.jpg', '3.jpg']:
    if any(l['Name'] == 'Cat' for l in rek.detect_labels(Image={'Bytes': open(fn,'rb').read()})['Labels']):
        cats += 1
print('cat album' if cats >= 2 else 'mixed')
