from google.cloud import language_v1
def find(text):
    client = language_v1.LanguageServiceClient()
    doc = language_v1.Document(content=text, type_=language_v1.Document.Type.PLAIN_TEXT)
    ents = client.analyze_entities(request={'document': doc}).entities
    people, places = [], []
    for e in ents:
        t = language_v1.Entity.Type(e.type_).name
        if t == 'PERSON':
            people.append(e.name)
        elif t == 'LOCATION':
            places.append(e.name)
    return people, places
print(find('Anna went to Paris'))
