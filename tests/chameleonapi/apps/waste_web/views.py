from base64 import b64decode
from django.http import JsonResponse
from .vision_call import call_vision

def classify(request):
    return JsonResponse(call_vision(b64decode(request.POST['img'])))
