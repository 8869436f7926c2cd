from google.cloud import vision
client = vision.ImageAnnotatorClient()
objs = client.object_localization(image=vision.Image(content=open('lot.jpg','rb').read())).localized_object_annotations
cars = sum(1 for o in objs if o.name in ('Car', 'Van'))
if cars >= 20:
    print('full')
else:
    print('spaces left')
