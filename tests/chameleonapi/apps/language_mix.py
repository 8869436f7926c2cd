"""Chat moderation: toxic comments are hidden, complaints about deliveries go to the support desk."""
from google.cloud import language_v1 as language

SUPPORT_TOPICS = ("/Shopping", "/Business & Industrial/Transportation & Logistics")


class Inbox:
    def __init__(self):
        self.client = language.LanguageServiceClient()
        self.hidden, self.tickets = [], []

    def _doc(self, text):
        return {"content": text, "type_": language.Document.Type.PLAIN_TEXT}

    def tone(self, text):
        s = self.client.analyze_sentiment(request={"document": self._doc(text)}).document_sentiment
        if s.score <= -0.6 and s.magnitude >= 1.5:
            return "toxic"
        return "ok"

    def topic(self, text):
        for c in self.client.classify_text(document=self._doc(text)).categories:
            if c.name.startswith(SUPPORT_TOPICS):
                return "support"
        return "other"

    def receive(self, text):
        if self.tone(text) == "toxic":
            self.hidden.append(text)
        elif self.topic(text) == "support":
            self.tickets.append(text)
