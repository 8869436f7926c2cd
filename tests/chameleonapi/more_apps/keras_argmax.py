from google.cloud import vision
from keras.models import load_model
import numpy as np, cv2
model = load_model('waste.h5')
def decide(path):
    img = cv2.imread(path)
    pred = int(np.argmax(model.predict(np.expand_dims(cv2.resize(img, (224, 224)), 0))))
    labels = [l.description for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=open(path,'rb').read())).label_annotations]
    if pred == 1 and 'Plastic' in labels:
        return 'recycle'
    elif pred == 2 or 'Food' in labels:
        return 'compost'
    return 'trash'
print(decide('a.jpg'))
