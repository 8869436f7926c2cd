# Django view: visual search
import json
from django.http import JsonResponse, HttpResponseBadRequest
from django.views.decorators.csrf import csrf_exempt
from google.cloud import vision
from .models import Product

SECTIONS = {
    'shoe': 'footwear', 'sneakers': 'footwear', 'boot': 'footwear', 'sandal': 'footwear',
    'shirt': 'tops', 't-shirt': 'tops', 'blouse': 'tops', 'sweater': 'tops',
    'jeans': 'bottoms', 'trousers': 'bottoms', 'shorts': 'bottoms', 'skirt': 'bottoms',
}


@csrf_exempt
def visual_search(request):
    if request.method != 'POST':
        return HttpResponseBadRequest('POST only')
    content = request.FILES['image'].read()
    client = vision.ImageAnnotatorClient()
    response = client.label_detection(image=vision.Image(content=content))
    section = None
    for label in response.label_annotations:
        key = label.description.lower()
        if key in SECTIONS:
            section = SECTIONS[key]
            break
    if section is None:
        return JsonResponse({'error': 'nothing to wear in this picture'}, status=404)
    products = Product.objects.filter(section=section)[:20]
    return JsonResponse({'section': section, 'products': [p.as_dict() for p in products]})
