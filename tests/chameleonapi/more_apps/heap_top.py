import heapq
from operator import attrgetter
from google.cloud import vision
client = vision.ImageAnnotatorClient()
def f(c):
    anns = client.label_detection(image=vision.Image(content=c)).label_annotations
    best = heapq.nlargest(3, anns, key=attrgetter('score'))
    names = list(map(str.lower, (b.description for b in best)))
    if 'cat' in names:
        return 'cat person'
    if 'dog' in names:
        return 'dog person'
    return 'no pet'
print(f(open('x','rb').read()))
