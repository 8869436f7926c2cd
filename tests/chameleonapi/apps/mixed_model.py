import cv2
from google.cloud import vision
from keras.models import load_model

model = load_model('mask.h5')
client = vision.ImageAnnotatorClient()

def may_enter(frame):
    ok, buf = cv2.imencode('.jpg', frame)
    labels = client.label_detection(image=vision.Image(content=buf.tobytes())).label_annotations
    names = [l.description for l in labels]
    wears_mask = model.predict(cv2.resize(frame, (224, 224)))[0][0] > 0.5
    if 'Person' in names and wears_mask:
        return 'open'
    return 'closed'
