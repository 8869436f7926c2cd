"""Sends a reader's letter to the right columnist: the strongest topic decides."""
from google.cloud import language_v1

COLUMNIST = {
    "/Relationships": "Dr. Love", "/Family": "Aunt May",
    "/Youth": "Kim", "/Learning": "Kim",
    "/Travel": "Globetrotter", "/Food & Drink": "Chef",
}


def columnist(text):
    client = language_v1.LanguageServiceClient()
    document = language_v1.Document(content=text, type_=language_v1.Document.Type.PLAIN_TEXT)
    response = client.classify_text(request={"document": document})
    for category in response.categories:
        if category.name in COLUMNIST:
            return COLUMNIST[category.name]
    return None
