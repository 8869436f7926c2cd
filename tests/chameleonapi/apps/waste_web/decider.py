# works on the printed form of the annotations
RECYCLE_WORDS = ["Plastic", "Glass", "Tin", "Aluminum", "Cardboard"]
ORGANIC_WORDS = ["Fruit", "Vegetable", "Bread"]


def decision(labels_as_text):
    for word in ORGANIC_WORDS:
        if '"%s' % word in labels_as_text:
            return {"bin": "organic", "colour": "green"}
    for word in RECYCLE_WORDS:
        if '"' + word in labels_as_text:
            return {"bin": "recycling", "colour": "blue"}
    return {"bin": "landfill", "colour": "black"}
