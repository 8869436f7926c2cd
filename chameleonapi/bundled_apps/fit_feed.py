from google.cloud import language_v1


def wants(text):
    client = language_v1.LanguageServiceClient()
    document = language_v1.Document(content=text, type_=language_v1.Document.Type.PLAIN_TEXT)
    for category in client.classify_text(request={"document": document}).categories:
        if category.name in ("/Fitness & Health", "/Sports"):
            return True
    return False
