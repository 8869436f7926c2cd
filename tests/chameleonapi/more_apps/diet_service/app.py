from flask import Flask, jsonify, request
from services.vision_service import VisionService
from services.recipes import suggest
import config

app = Flask(__name__)
service = VisionService(config.MAX_RESULTS, config.THRESHOLD)

@app.route("/scan", methods=["POST"])
def scan():
    labels = service.labels(request.files["image"].read())
    ingredients = [l for l in labels if l in config.INGREDIENTS]
    diet = suggest(ingredients)
    return jsonify(diet=diet)

if __name__ == "__main__":
    app.run()
