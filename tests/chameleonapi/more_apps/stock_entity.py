from google.cloud import language_v1
def stock(text):
    c = language_v1.LanguageServiceClient()
    r = c.analyze_entity_sentiment(document={'content': text, 'type_': 1})
    for e in r.entities:
        if e.name == 'Apple':
            if e.sentiment.score > 0.25:
                return 'buy'
            elif e.sentiment.score < -0.25:
                return 'sell'
    return 'hold'
