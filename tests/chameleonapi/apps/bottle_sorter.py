import base64
import json
import sys

import requests

API = 'https://vision.googleapis.com/v1/images:annotate?key=' + open('key.txt').read().strip()

def annotate(path):
    body = {
        "requests": [{
            "image": {"content": base64.b64encode(open(path, 'rb').read()).decode('utf-8')},
            "features": [{"type": "LABEL_DETECTION", "maxResults": 10}],
        }]
    }
    r = requests.post(API, data=json.dumps(body), headers={'Content-Type': 'application/json'})
    return r.json()['responses'][0]['labelAnnotations']

labels = [a['description'].lower() for a in annotate(sys.argv[1])]
print(labels)
if 'bottle' in labels and 'plastic' in labels:
    print('deposit bottle')
else:
    print('no deposit')
