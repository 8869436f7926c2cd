from google.cloud import vision

def count_faces(path):
    client = vision.ImageAnnotatorClient()
    faces = client.face_detection(image=vision.Image(content=open(path, 'rb').read())).face_annotations
    return len(faces)

print(count_faces('group.jpg') > 3)
