"""Road-kill and stray animal report form (Flask)."""
import os
import uuid
from flask import Flask, render_template, request, redirect, url_for, flash
from flask_sqlalchemy import SQLAlchemy
from google.cloud import vision
from werkzeug.utils import secure_filename

app = Flask(__name__)
app.config["UPLOAD_FOLDER"] = "static/uploads"
db = SQLAlchemy(app)
ALLOWED = {"png", "jpg", "jpeg"}


class Report(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    animal = db.Column(db.String(50))
    image = db.Column(db.String(200))


def allowed_file(filename):
    return "." in filename and filename.rsplit(".", 1)[1].lower() in ALLOWED


def identify(image_path):
    try:
        client = vision.ImageAnnotatorClient()
        with open(image_path, "rb") as image_file:
            content = image_file.read()
        response = client.label_detection(image=vision.Image(content=content))
        known = ["dog", "cat", "cattle", "deer", "fox", "bird"]
        for label in response.label_annotations:
            if label.description.lower() in known:
                return label.description.capitalize()
        return None
    except Exception as e:
        print(f"Error calling Vision API: {e}")
        return None


@app.route("/report", methods=["POST"])
def report():
    file = request.files.get("image")
    if file and allowed_file(file.filename):
        name = secure_filename(f"{uuid.uuid4().hex}_{file.filename}")
        path = os.path.join(app.config["UPLOAD_FOLDER"], name)
        file.save(path)
        animal = identify(path)
        db.session.add(Report(animal=animal, image=name))
        db.session.commit()
        flash("Thank you")
    return redirect(url_for("index"))
