from google.cloud import language_v1

SECTIONS = {
    "screen": ["/Film & TV", "/Gaming"],
    "sound": ["/Music"],
    "style": ["/Fashion", "/Celebrity", "/Arts & Culture"],
}


def sections(text):
    client = language_v1.LanguageServiceClient()
    result = client.classify_text(document=language_v1.Document(content=text, type_=language_v1.Document.Type.PLAIN_TEXT))
    names = [category.name for category in result.categories]
    return [section for section, wanted in SECTIONS.items() if set(wanted).intersection(names)]
