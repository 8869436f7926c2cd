from google.cloud import vision
bins = {'recycle': ['Plastic', 'Paper', 'Bottle'], 'compost': ['Food', 'Fruit', 'Leaf']}
def vote(img):
    tally = dict.fromkeys(bins, 0)
    for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=img)).label_annotations:
        for b in bins:
            if l.description in bins[b]:
                tally[b] += 1
    best = sorted(tally.items(), key=lambda kv: kv[1], reverse=True)[0]
    return best[0] if best[1] > 0 else 'trash'
