import requests, base64, os
KEY = os.environ['KEY']
URL = f"https://vision.googleapis.com/v1/images:annotate?key={KEY}"
def tags(path):
    with open(path, 'rb') as f:
        payload = {"requests":[{"image":{"content": base64.b64encode(f.read()).decode()}, "features":[{"type":"OBJECT_LOCALIZATION"},{"type":"LABEL_DETECTION"}]}]}
    res = requests.post(URL, json=payload)
    res.raise_for_status()
    data = res.json()
    r = data["responses"][0]
    names = [o["name"] for o in r.get("localizedObjectAnnotations", [])]
    labels = [l["description"] for l in r.get("labelAnnotations", []) if l["score"] > 0.7]
    return names, labels
def is_pet_photo(path):
    names, labels = tags(path)
    return "Dog" in names or "Cat" in names or "Pet" in labels
