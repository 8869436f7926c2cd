from celery import Celery, shared_task
from django.db import transaction
from google.cloud import vision
from .models import Photo, Tag
MAPPING = (
    (('beach', 'sea', 'ocean', 'coast'), 'seaside'),
    (('mountain', 'hill', 'alps'), 'mountains'),
    (('city', 'skyscraper', 'downtown', 'metropolis'), 'city'),
)
@shared_task(bind=True, max_retries=3)
def tag_photo(self, photo_id):
    photo = Photo.objects.get(pk=photo_id)
    try:
        client = vision.ImageAnnotatorClient()
        response = client.label_detection(image=vision.Image(content=photo.file.read()))
    except Exception as exc:
        raise self.retry(exc=exc, countdown=60)
    labels = {a.description.lower() for a in response.label_annotations if a.score > 0.6}
    with transaction.atomic():
        for words, tag in MAPPING:
            if labels.intersection(words):
                photo.tags.add(Tag.objects.get_or_create(name=tag)[0])
        photo.processed = True
        photo.save()
