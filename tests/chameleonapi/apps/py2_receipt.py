from google.cloud import vision
client = vision.ImageAnnotatorClient()
labels = client.label_detection(image=open('x.jpg').read()).label_annotations
for l in labels:
    if l.description == 'Receipt':
        print 'receipt found'
