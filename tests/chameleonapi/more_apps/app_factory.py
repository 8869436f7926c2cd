import os
from google.cloud import vision
def create_app():
    from flask import Flask, request
    app = Flask(__name__)
    client = vision.ImageAnnotatorClient()
    @app.route('/check', methods=['POST'])
    def check():
        labels = client.label_detection(image=vision.Image(content=request.data)).label_annotations
        texts = [l.description for l in labels]
        if 'Mask' in texts or 'Face mask' in texts:
            return {'allowed': True}
        return {'allowed': False}, 403
    return app
if __name__ == '__main__':
    create_app().run()
