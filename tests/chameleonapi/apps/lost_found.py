# Which drawer of the lost-and-found?  Most important things first.
from google.cloud import vision

DRAWERS = dict(
    valuables={'Watch', 'Jewellery', 'Ring', 'Necklace', 'Wallet'},
    electronics={'Mobile phone', 'Laptop', 'Headphones', 'Camera'},
    clothes={'Jacket', 'Scarf', 'Glove', 'Hat'},
)

def labels_of(path):
    client = vision.ImageAnnotatorClient()
    with open(path, 'rb') as f:
        response = client.annotate_image({'image': {'content': f.read()}, 'features': [{'type_': vision.Feature.Type.OBJECT_LOCALIZATION}]})
    for obj in response.localized_object_annotations:
        yield obj.name

def drawer(path):
    names = set(labels_of(path))
    return next((d for d, things in DRAWERS.items() if things & names), 'shelf')

if __name__ == '__main__':
    import sys
    print(drawer(sys.argv[1]))
