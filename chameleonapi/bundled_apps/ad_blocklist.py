# brand safety: news first, then family topics get their own ads
from google.cloud import language_v1

NEWS = {"/News"}
FAMILY = {"/Family", "/Relationships", "/Youth"}


class AdServer:
    def __init__(self):
        self.nlp = language_v1.LanguageServiceClient()

    def slot(self, text):
        doc = language_v1.types.Document(content=text, type_="PLAIN_TEXT")
        topics = {c.name for c in self.nlp.classify_text(document=doc).categories}
        if topics & NEWS:
            return "no ads"
        elif topics & FAMILY:
            return "family ads"
        return "any ads"
