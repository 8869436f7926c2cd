import io, os, shutil
from google.cloud import vision_v1p3beta1 as vision
from google.protobuf.json_format import MessageToDict

DEST = {'receipt': 'receipts', 'letter': 'letters', 'newspaper': 'clippings'}

def sort_scan(path):
    client = vision.ImageAnnotatorClient()
    with io.open(path, 'rb') as fh:
        content = fh.read()
    resp = client.annotate_image({
        'image': {'content': content},
        'features': [{'type': vision.enums.Feature.Type.LABEL_DETECTION, 'max_results': 20},
                     {'type': vision.enums.Feature.Type.TEXT_DETECTION}],
    })
    data = MessageToDict(resp)
    folder = 'misc'
    for entry in data.get('labelAnnotations', []):
        word = entry['description'].lower()
        if entry['score'] >= 0.55 and word in DEST:
            folder = DEST[word]
            break
    shutil.move(path, os.path.join('/scans', folder, os.path.basename(path)))

for name in os.listdir('/scans/in'):
    sort_scan('/scans/in/' + name)
