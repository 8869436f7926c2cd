from google.cloud import vision
KEYWORDS = {}
for line in open('rules.csv'):
    word, action = line.strip().split(';')
    KEYWORDS[word] = action
def act(path):
    client = vision.ImageAnnotatorClient()
    labels = client.label_detection(image=vision.Image(content=open(path,'rb').read())).label_annotations
    for l in labels:
        if l.description in KEYWORDS:
            return KEYWORDS[l.description]
