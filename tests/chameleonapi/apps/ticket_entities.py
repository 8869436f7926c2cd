from google.cloud import language_v1

def urgency(text):
    client = language_v1.LanguageServiceClient()
    doc = language_v1.Document(content=text, type_=language_v1.Document.Type.PLAIN_TEXT)
    response = client.analyze_entities(request={'document': doc, 'encoding_type': language_v1.EncodingType.UTF8})
    for entity in response.entities:
        kind = language_v1.Entity.Type(entity.type_).name
        if kind == 'ORGANIZATION':
            return 'legal'
        if kind in ('PRICE', 'NUMBER'):
            return 'billing'
    return 'general'
