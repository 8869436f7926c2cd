# extracts contacts from mail
from google.cloud import language_v1

def find_entities(text):
    client = language_v1.LanguageServiceClient()
    document = {"content": text, "type_": language_v1.Document.Type.PLAIN_TEXT}
    response = client.analyze_entities(request={"document": document, "encoding_type": language_v1.EncodingType.UTF8})
    people, places, orgs = [], [], []
    for entity in response.entities:
        kind = language_v1.Entity.Type(entity.type_).name
        if kind == "PERSON":
            people.append(entity.name)
        elif kind in ("LOCATION", "ADDRESS"):
            places.append(entity.name)
        elif kind == "ORGANIZATION":
            orgs.append(entity.name)
    return people, places, orgs


if __name__ == "__main__":
    import sys
    for group in find_entities(sys.stdin.read()):
        print(group)
