import base64, sys
from googleapiclient import discovery
from oauth2client.client import GoogleCredentials
credentials = GoogleCredentials.get_application_default()
service = discovery.build('vision', 'v1', credentials=credentials)
def labels_of(fn):
    with open(fn, 'rb') as image:
        image_content = base64.b64encode(image.read())
        req = service.images().annotate(body={'requests': [{'image': {'content': image_content.decode('UTF-8')}, 'features': [{'type': 'LABEL_DETECTION', 'maxResults': 3}]}]})
        response = req.execute()
    return [r['description'] for r in response['responses'][0]['labelAnnotations']]
def is_selfie(fn):
    ls = labels_of(fn)
    return ('Selfie' in ls) or ('Face' in ls and 'Person' in ls)
if is_selfie(sys.argv[1]):
    print('selfie!')
