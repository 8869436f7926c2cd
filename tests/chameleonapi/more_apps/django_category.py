from django.shortcuts import render, redirect
from django.contrib.auth.decorators import login_required
from django.http import JsonResponse
from google.cloud import vision
from google.oauth2 import service_account
from .models import Item, Category
from .forms import ItemForm

credentials = service_account.Credentials.from_service_account_file('creds.json')

CATEGORY_KEYWORDS = [
    ('electronics', ['Laptop', 'Mobile phone', 'Computer', 'Camera', 'Television']),
    ('furniture', ['Chair', 'Table', 'Couch', 'Desk', 'Bed']),
    ('clothing', ['Shirt', 'Dress', 'Jeans', 'Shoe', 'Jacket']),
]


def guess_category(image_bytes):
    client = vision.ImageAnnotatorClient(credentials=credentials)
    response = client.label_detection(image=vision.Image(content=image_bytes), max_results=15)
    if response.error.message:
        raise Exception(response.error.message)
    descriptions = [l.description for l in response.label_annotations]
    for category, keywords in CATEGORY_KEYWORDS:
        for keyword in keywords:
            if keyword in descriptions:
                return category
    return 'other'


@login_required
def create_item(request):
    if request.method == 'POST':
        form = ItemForm(request.POST, request.FILES)
        if form.is_valid():
            item = form.save(commit=False)
            item.owner = request.user
            item.category = Category.objects.get(slug=guess_category(request.FILES['photo'].read()))
            item.save()
            return redirect('item_detail', pk=item.pk)
    else:
        form = ItemForm()
    return render(request, 'items/create.html', {'form': form})
