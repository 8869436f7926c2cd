from google.cloud import vision
s = {l.description: l.score for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=open('x','rb').read())).label_annotations}
p = s.get('Cat', 0) * s.get('Sofa', 0)
print('lazy cat' if p > 0.5 else 'no')
