from flask import Flask, request
from twilio.twiml.messaging_response import MessagingResponse
from google.cloud import vision
from pymongo import MongoClient
import requests, os, io

app = Flask(__name__)
db = MongoClient(os.environ['MONGO']).snap
client = vision.ImageAnnotatorClient()

RECYCLABLE = "plastic,paper,glass,metal,cardboard,tin can,bottle".split(",")
TRASH = "styrofoam,diaper,napkin,tissue".split(",")

def download(url):
    r = requests.get(url)
    with open('tmp.jpg', 'wb') as f:
        f.write(r.content)

def getLabels():
    with io.open('tmp.jpg', 'rb') as image_file:
        content = image_file.read()
    image = vision.types.Image(content=content)
    response = client.label_detection(image=image)
    return [l.description.lower() for l in response.label_annotations]

@app.route("/sms", methods=['POST'])
def sms():
    resp = MessagingResponse()
    if int(request.form['NumMedia']) < 1:
        resp.message("Send me a picture!")
        return str(resp)
    download(request.form['MediaUrl0'])
    labels = getLabels()
    answer = None
    for l in labels:
        for r in RECYCLABLE:
            if r in l:
                answer = "recycle"
        for t in TRASH:
            if t in l:
                answer = "trash"
    if answer is None:
        resp.message("Sorry, I don't know that one.")
    else:
        resp.message("You can put this in the {} bin".format(answer))
        db.stats.insert_one({'from': request.form['From'], 'kind': answer})
    return str(resp)

if __name__ == "__main__":
    app.run(port=int(os.environ.get('PORT', 5000)))
