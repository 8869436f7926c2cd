from google.cloud import language_v1
def about(text):
    c = language_v1.LanguageServiceClient()
    ents = c.analyze_entities(document=language_v1.Document(content=text, type_=language_v1.Document.Type.PLAIN_TEXT)).entities
    orgs = [e for e in ents if e.type_ == language_v1.Entity.Type.ORGANIZATION and e.salience > 0.1]
    if orgs:
        return 'company news'
    people = [e for e in ents if language_v1.Entity.Type(e.type_).name == 'PERSON']
    if people:
        return 'people'
    return 'other'
