from google.cloud import language_v1
def average(texts):
    client = language_v1.LanguageServiceClient()
    total = 0
    for t in texts:
        total += client.analyze_sentiment(request={'document': {'content': t}}).document_sentiment.score
    avg = total / len(texts)
    return 'buy' if avg > 0.2 else 'sell' if avg < -0.2 else 'hold'
