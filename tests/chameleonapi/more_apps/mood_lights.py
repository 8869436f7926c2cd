import boto3
import paho.mqtt.publish as publish
def happy(): publish.single('lights', 'yellow')
def sad(): publish.single('lights', 'blue')
def angry(): publish.single('lights', 'red')
def nothing(): publish.single('lights', 'white')
switch = {'HAPPY': happy, 'SAD': sad, 'ANGRY': angry, 'DISGUSTED': angry}
def main():
    r = boto3.client('rekognition').detect_faces(Image={'S3Object': {'Bucket': 'b', 'Name': 'n'}}, Attributes=['ALL'])
    for faceDetail in r['FaceDetails']:
        emotion = sorted(faceDetail['Emotions'], key=lambda k: k['Confidence'], reverse=True)[0]['Type']
        switch.get(emotion, nothing)()
if __name__ == '__main__':
    main()
