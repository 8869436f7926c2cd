import asyncio
from concurrent.futures import ThreadPoolExecutor
from fastapi import FastAPI, UploadFile, HTTPException
from google.cloud import vision

app = FastAPI()
pool = ThreadPoolExecutor(4)
NSFW = {"weapon", "gun", "knife"}


def _label(content: bytes):
    client = vision.ImageAnnotatorClient()
    response = client.label_detection(image=vision.Image(content=content))
    if response.error.message:
        raise RuntimeError(response.error.message)
    return response.label_annotations


@app.post("/upload")
async def upload(file: UploadFile):
    content = await file.read()
    loop = asyncio.get_event_loop()
    labels = await loop.run_in_executor(pool, _label, content)
    words = set()
    for label in labels:
        words.update(label.description.lower().split())
    if not words.isdisjoint(NSFW):
        raise HTTPException(status_code=422, detail="dangerous object")
    return {"ok": True}
