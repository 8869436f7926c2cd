import sys

from google.cloud import language_v1 as language

client = language.LanguageServiceClient()
document = {"content": sys.argv[1], "type_": language.Document.Type.PLAIN_TEXT}
categories = client.classify_text(document=document).categories
names = [c.name for c in categories]
if "/News" in names or "/Science & Technology" in names or "/Business" in names:
    print("front page")
else:
    print("skip")
