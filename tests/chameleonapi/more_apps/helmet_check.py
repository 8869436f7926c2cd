# ppe check
import boto3
client = boto3.client('rekognition')
def check(photo):
    with open(photo, 'rb') as image:
        response = client.detect_labels(Image={'Bytes': image.read()})
    helmet = False
    vest = False
    person = False
    for label in response['Labels']:
        name = label['Name']
        if name == 'Helmet' or name == 'Hardhat':
            helmet = True
        if name == 'Vest' or name == 'Lifejacket':
            vest = True
        if name == 'Person':
            person = True
    if person and not helmet:
        print('ALERT: no helmet')
        return 1
    return 0
if __name__ == "__main__":
    check('site.jpg')
