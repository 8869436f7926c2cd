# 2016 style: API discovery client
import argparse
import base64
import httplib2
from googleapiclient import discovery
from oauth2client.client import GoogleCredentials

DISCOVERY_URL = 'https://{api}.googleapis.com/$discovery/rest?version={apiVersion}'


def get_vision_service():
    credentials = GoogleCredentials.get_application_default()
    return discovery.build('vision', 'v1', credentials=credentials, discoveryServiceUrl=DISCOVERY_URL)


def main(photo_file):
    service = get_vision_service()
    with open(photo_file, 'rb') as image:
        image_content = base64.b64encode(image.read())
        service_request = service.images().annotate(body={
            'requests': [{
                'image': {'content': image_content.decode('UTF-8')},
                'features': [{'type': 'LABEL_DETECTION', 'maxResults': 5}]
            }]
        })
        response = service_request.execute()
        for result in response['responses'][0]['labelAnnotations']:
            label = result['description']
            print('Found label: %s' % label)
            if label == 'cat' or label == 'Cat':
                return 'sprinkler on'
    return 'sprinkler off'


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('image_file', help='The image you\'d like to label.')
    args = parser.parse_args()
    state = main(args.image_file)
    print(state)
