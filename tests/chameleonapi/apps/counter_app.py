from collections import Counter, defaultdict
from google.cloud import vision

GROUP = defaultdict(lambda: None, {'Rose': 'flower', 'Tulip': 'flower', 'Daisy': 'flower', 'Oak': 'tree', 'Pine': 'tree', 'Palm tree': 'tree'})


def majority(path):
    client = vision.ImageAnnotatorClient()
    with open(path, 'rb') as fh:
        response = client.label_detection(image=vision.Image(content=fh.read()))
    votes = Counter(GROUP[l.description] for l in response.label_annotations if GROUP[l.description])
    if not votes:
        return 'nothing'
    return votes.most_common(1)[0][0]
