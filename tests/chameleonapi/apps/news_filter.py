"""Mutes push notifications about topics I do not want to read before breakfast."""
from google.cloud import language_v1


def classify(text):
    client = language_v1.LanguageServiceClient()
    document = language_v1.Document(content=text, type_=language_v1.Document.Type.PLAIN_TEXT)
    response = client.classify_text(request={"document": document})
    return response.categories


def should_mute(text):
    if len(text.split()) < 20:
        # the API needs at least 20 tokens
        return False
    for category in classify(text):
        top = category.name.split("/")[1]
        if top in ("News", "Sensitive Subjects") and category.confidence > 0.5:
            return True
        if "Politics" in category.name:
            return True
    return False
