import base64

from google.cloud import vision


def has_mail(jpeg: bytes) -> bool:
    """True when the camera in the letter box sees something to read."""
    encoded = base64.b64encode(jpeg)
    client = vision.ImageAnnotatorClient()
    result = client.annotate_image({
        "image": {"content": base64.b64decode(encoded)},
        "features": [{"type_": vision.Feature.Type.LABEL_DETECTION}],
    })
    hits = list(filter(lambda a: a.description.split()[0] in ("Paper", "Envelope", "Cardboard"), result.label_annotations))
    return len(hits) > 0
