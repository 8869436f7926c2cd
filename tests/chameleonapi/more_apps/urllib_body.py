import json, urllib.request, base64, sys
def call(img, key):
    req = urllib.request.Request('https://vision.googleapis.com/v1/images:annotate?key=' + key, data=json.dumps({'requests': [{'image': {'content': base64.b64encode(img).decode('ascii')}, 'features': [{'type': 'OBJECT_LOCALIZATION'}]}]}).encode(), headers={'Content-Type': 'application/json'})
    with urllib.request.urlopen(req) as r:
        return json.load(r)
objs = call(open(sys.argv[1], 'rb').read(), sys.argv[2])['responses'][0].get('localizedObjectAnnotations', [])
names = [o['name'] for o in objs if o['score'] > 0.6]
sys.exit(0 if 'Person' in names else 1)
