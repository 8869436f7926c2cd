"""Sorts a folder of photos into albums with one batch request."""
import glob
import os
import shutil
import yaml
from google.cloud import vision

with open('albums.yaml') as f:
    ALBUMS = yaml.safe_load(f)

client = vision.ImageAnnotatorClient()
feature = vision.Feature(type_=vision.Feature.Type.LABEL_DETECTION, max_results=12)

paths = sorted(glob.glob('in/*.jpg'))
requests = [vision.AnnotateImageRequest(image=vision.Image(content=open(p, 'rb').read()), features=[feature]) for p in paths]
batch = client.batch_annotate_images(requests=requests)

for path, response in zip(paths, batch.responses):
    labels = {a.description.lower() for a in response.label_annotations if a.topicality > 0.5}
    for album in ALBUMS:
        if labels.intersection(album['labels']):
            shutil.copy(path, os.path.join('albums', album['name']))
