from google.cloud import vision
ls = vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=open('x','rb').read())).label_annotations
if ls[0].description == 'Cat' and ls[0].score - ls[1].score > 0.2:
    print('clearly a cat')
else:
    print('unsure')
