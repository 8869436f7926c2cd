import sys
import base64
import urllib2
import json
from googleapiclient import discovery
from oauth2client.client import GoogleCredentials
def main(photo_file):
    credentials = GoogleCredentials.get_application_default()
    service = discovery.build('vision', 'v1', credentials=credentials)
    with open(photo_file, 'rb') as image:
        image_content = base64.b64encode(image.read())
        service_request = service.images().annotate(body={
            'requests': [{'image': {'content': image_content.decode('UTF-8')},
                          'features': [{'type': 'LABEL_DETECTION', 'maxResults': 5}]}]})
        response = service_request.execute()
        labels = response['responses'][0]['labelAnnotations']
        results = {}
        for l in labels:
            results[l['description']] = l['score']
        for k, v in results.iteritems():
            if k == 'car' and v > 0.9:
                urllib2.urlopen('http://localhost/gate/open')
                print('open')
                return
        print('closed')
if __name__ == '__main__':
    main(sys.argv[1])
