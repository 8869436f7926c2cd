import argparse
from google.cloud import vision

CATEGORIES = [
    ('breakfast', ['Bread', 'Egg', 'Coffee', 'Croissant']),
    ('lunch', ['Salad', 'Sandwich', 'Soup']),
    ('dinner', ['Pizza', 'Pasta', 'Steak']),
]


def meal_of(names):
    return next((meal for meal, words in CATEGORIES if any(w in names for w in words)), 'snack')


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('file')
    ap.add_argument('-v', '--verbose', action='store_true')
    args = ap.parse_args()
    client = vision.ImageAnnotatorClient()
    with open(args.file, 'rb') as f:
        res = client.label_detection(image=vision.Image(content=f.read()))
    names = [l.description for l in res.label_annotations]
    if args.verbose:
        print(names)
    print(meal_of(names))


main()
