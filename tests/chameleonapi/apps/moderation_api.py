from fastapi import FastAPI, UploadFile, HTTPException
import boto3

app = FastAPI()
client = boto3.Session(region_name="eu-west-1").client("rekognition")

BLOCKED = {"Explicit Nudity", "Graphic Violence Or Gore", "Hate Symbols"}
THRESHOLD = 60.0


@app.post("/upload")
async def upload(file: UploadFile):
    data = await file.read()
    resp = client.detect_moderation_labels(Image={"Bytes": data}, MinConfidence=50)
    for item in resp["ModerationLabels"]:
        name, parent = item["Name"], item["ParentName"]
        if (name in BLOCKED or parent in BLOCKED) and item["Confidence"] > THRESHOLD:
            raise HTTPException(status_code=400, detail="inappropriate image")
    return {"ok": True, "filename": file.filename}
