import boto3, json
def handler(event, context):
    rek = boto3.client("rekognition")
    img = {"S3Object": {"Bucket": event["b"], "Name": event["k"]}}
    labels = rek.detect_labels(Image=img)["Labels"]
    mods = rek.detect_moderation_labels(Image=img)["ModerationLabels"]
    faces = rek.detect_faces(Image=img, Attributes=["ALL"])["FaceDetails"]
    is_safe = not any(m["Name"] in ("Violence", "Explicit Nudity") for m in mods)
    has_cat = any(l["Name"] == "Cat" for l in labels)
    smiling = any(f["Smile"]["Value"] for f in faces)
    if is_safe and has_cat:
        return "post"
    return "skip"
