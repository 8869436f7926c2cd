from google.cloud import vision

vision_client = vision.Client()

def detect(bucket_uri):
    image = vision_client.image(source_uri=bucket_uri)
    labels = image.detect_labels(limit=8)
    score = None
    for l in labels:
        if 'snow' in l.description.lower() or 'ice' == l.description.lower():
            score = l.score
    return score is not None

def slippery(request):
    if detect('gs://cams/' + request.args['cam'] + '.jpg'):
        return ('slippery', 200)
    return ('dry', 200)
