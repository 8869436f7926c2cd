from google.cloud import vision
n = 0
for o in vision.ImageAnnotatorClient().object_localization(image=vision.Image(content=open('x','rb').read())).localized_object_annotations:
    if o.name == 'Person' and o.score > 0.7:
        n += 1
if n > 3:
    print('party')
elif n > 0:
    print('someone')
else:
    print('empty')

