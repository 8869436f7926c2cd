from google.cloud import vision
import sys
def localize(path):
    client = vision.ImageAnnotatorClient()
    with open(path,'rb') as f: img = vision.Image(content=f.read())
    objs = client.object_localization(image=img).localized_object_annotations
    people = [o for o in objs if o.name == 'Person']
    dogs = [o for o in objs if o.name == 'Dog']
    if len(people) > 1:
        print('crowd')
    elif len(people) == 1 and len(dogs) >= 1:
        print('dog walker')
    elif people:
        print('one person')
    else:
        print('empty')
localize(sys.argv[1])
