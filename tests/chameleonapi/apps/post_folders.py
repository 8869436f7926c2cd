import os
from google.cloud import language_v1
from google.cloud.language_v1 import enums
def sample_classify_text(text_content):
    client = language_v1.LanguageServiceClient()
    type_ = enums.Document.Type.PLAIN_TEXT
    document = {"content": text_content, "type": type_, "language": "en"}
    response = client.classify_text(document)
    result = {}
    for category in response.categories:
        result[category.name] = category.confidence
    return result
def pick(text):
    cats = sample_classify_text(text)
    if not cats:
        return 'general'
    best = max(cats, key=cats.get)
    if best.startswith('/Sports'):
        return 'sports'
    elif best.startswith('/Food & Drink'):
        return 'food'
    elif 'Music' in best:
        return 'music'
    return 'general'
def main():
    for f in os.listdir('posts'):
        with open(os.path.join('posts', f)) as fh:
            folder = pick(fh.read())
            os.rename('posts/' + f, folder + '/' + f)
if __name__ == '__main__':
    main()
