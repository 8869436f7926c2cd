import os
from flask import Flask, request, jsonify
from google.cloud import vision

app = Flask(__name__)
client = vision.ImageAnnotatorClient()
ALLOWED = {"dog", "cat", "rabbit"}
BLOCKED = frozenset(["snake", "spider"])


@app.route("/check", methods=["POST"])
def check():
    f = request.files.get("photo")
    if f is None:
        return jsonify(error="no photo"), 400
    resp = client.label_detection(image=vision.Image(content=f.read()))
    seen = {l.description.lower() for l in resp.label_annotations}
    if seen & BLOCKED:
        return jsonify({"status": "rejected", "reason": "not allowed here"}), 403
    if seen & ALLOWED:
        return jsonify({"status": "accepted"})
    return jsonify({"status": "review"})


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=int(os.environ.get("PORT", 8080)))
