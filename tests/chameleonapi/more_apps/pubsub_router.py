import base64, json
from google.cloud import vision, pubsub_v1, storage
publisher = pubsub_v1.PublisherClient()
ROUTES = {"invoice": {"Invoice", "Receipt", "Document"}, "person": {"Person", "Face", "Selfie"}}
def entry(event, context):
    msg = json.loads(base64.b64decode(event['data']).decode())
    client = vision.ImageAnnotatorClient()
    image = vision.Image()
    image.source.image_uri = 'gs://%s/%s' % (msg['bucket'], msg['name'])
    resp = client.annotate_image({'image': image, 'features': [{'type_': vision.Feature.Type.LABEL_DETECTION}, {'type_': vision.Feature.Type.TEXT_DETECTION}]})
    found = {a.description for a in resp.label_annotations}
    for topic, wanted in ROUTES.items():
        if found & wanted:
            publisher.publish('projects/p/topics/' + topic, json.dumps(msg).encode())
            break
    else:
        print('no route')
