import aiohttp, asyncio, base64, json, sys, os
KEY = os.environ["KEY"]
async def annotate(session, path):
    payload = {"requests": [{"image": {"content": base64.b64encode(open(path, "rb").read()).decode()},
               "features": [{"type": "LABEL_DETECTION", "maxResults": 5}]}]}
    async with session.post(f"https://vision.googleapis.com/v1/images:annotate?key={KEY}", json=payload) as r:
        data = await r.json()
    labels = data["responses"][0].get("labelAnnotations", [])
    return path, {l["description"].lower(): l["score"] for l in labels}
async def main(paths):
    async with aiohttp.ClientSession() as session:
        results = await asyncio.gather(*[annotate(session, p) for p in paths])
    for path, labels in results:
        if labels.get("cat", 0) > 0.8:
            os.rename(path, "cats/" + path)
        elif labels.get("dog", 0) > 0.8:
            os.rename(path, "dogs/" + path)
asyncio.run(main(sys.argv[1:]))
