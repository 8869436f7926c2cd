from google.cloud import vision
PANTRY = ['tomato', 'egg', 'noodle', 'bean']
def norm(s):
    s = s.lower().strip()
    if s.endswith('s'):
        s = s[:-1]
    return s
def f(c):
    got = []
    for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=c)).label_annotations:
        n = norm(l.description)
        if n in PANTRY and n not in got:
            got.append(n)
    return got
print(f(open('x','rb').read()))
