from google.cloud import vision
from operator import attrgetter, itemgetter

SEASON = {'Snow': 'winter', 'Winter': 'winter', 'Ice': 'winter',
          'Flower': 'spring', 'Blossom': 'spring',
          'Beach': 'summer', 'Sun': 'summer',
          'Autumn': 'autumn', 'Leaf': 'autumn'}

def season(uri):
    client = vision.ImageAnnotatorClient()
    image = vision.Image()
    image.source.image_uri = uri
    labels = client.label_detection(image=image).label_annotations
    candidates = sorted(labels, key=attrgetter('score'), reverse=True)
    hits = [SEASON[c.description] for c in candidates if c.description in SEASON]
    return hits[0] if hits else 'unknown'

import sys
for u in sys.argv[1:]:
    print(u, season(u))
