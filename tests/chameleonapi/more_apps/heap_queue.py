import heapq
from google.cloud import vision
PRIO = {'Fire': 1, 'Smoke': 1, 'Person': 2, 'Car': 3}
ACT = {1: 'evacuate', 2: 'greet', 3: 'open gate'}
def f(c):
    h = []
    for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=c)).label_annotations:
        if l.description in PRIO:
            heapq.heappush(h, PRIO[l.description])
    if h:
        return ACT[heapq.heappop(h)]
    return 'idle'
print(f(open('x','rb').read()))
