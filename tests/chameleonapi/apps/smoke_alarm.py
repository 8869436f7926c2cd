import time
import cv2
from google.cloud import vision
from twilio.rest import Client

client = vision.ImageAnnotatorClient()
sms = Client('AC00', 'token')

def alert(level):
    sms.messages.create(to='+15551234567', from_='+15557654321', body='Wildfire camera: ' + level)

cap = cv2.VideoCapture('rtsp://ridge-cam/stream')
frame_no = 0
while cap.isOpened():
    ok, frame = cap.read()
    if not ok:
        break
    frame_no += 1
    if frame_no % 150 == 0 or frame_no == 1:
        cv2.imwrite('./tmp.png', frame)
        with open('./tmp.png', 'rb') as imageFile:
            content = imageFile.read()
        response = client.label_detection(image=vision.Image(content=content))
        for label in response.label_annotations:
            if label.description == "Wildfire" or label.description == "Smoke":
                if label.score > 0.60:
                    alert('fire')
                    cv2.putText(frame, label.description, (10, 30), 0, 1, (0, 0, 255))
                    cv2.imwrite('./detections/%d.png' % frame_no, frame)
        if response.error.message:
            raise Exception(response.error.message)
    if cv2.waitKey(1) & 0xFF == ord('q'):
        break
cap.release()
