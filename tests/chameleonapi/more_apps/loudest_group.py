from google.cloud import vision
import io

GROUPS = {
    'city': ['Building', 'Skyscraper', 'City', 'Street'],
    'nature': ['Tree', 'Mountain', 'Forest', 'River'],
    'people': ['Person', 'Crowd', 'Face'],
}

def score_image(path):
    client = vision.ImageAnnotatorClient()
    with io.open(path, 'rb') as f:
        image = vision.Image(content=f.read())
    labels = client.label_detection(image=image).label_annotations
    totals = {g: 0 for g in GROUPS}
    for label in labels:
        for g, words in GROUPS.items():
            if label.description in words:
                totals[g] += label.score
    return max(totals, key=totals.get)

print(score_image('photo.jpg'))
