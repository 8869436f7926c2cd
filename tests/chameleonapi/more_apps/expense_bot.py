import os
import boto3
from slack_bolt import App
app = App(token=os.environ["SLACK_BOT_TOKEN"], signing_secret=os.environ["S"])
rek = boto3.client("rekognition", region_name="us-east-1")

BANNED_ITEMS = ["Beer", "Wine", "Alcohol", "Cigarette", "Liquor"]

@app.event("file_shared")
def handle_file(event, client, say, logger):
    info = client.files_info(file=event["file_id"])
    url = info["file"]["url_private"]
    import urllib.request
    req = urllib.request.Request(url, headers={"Authorization": "Bearer x"})
    data = urllib.request.urlopen(req).read()
    try:
        out = rek.detect_labels(Image={"Bytes": data}, MaxLabels=25, MinConfidence=60)
    except rek.exceptions.InvalidImageFormatException:
        say("That is not an image")
        return
    bad = [l for l in out.get("Labels", []) if l.get("Name") in BANNED_ITEMS or any(p["Name"] in BANNED_ITEMS for p in l.get("Parents", []))]
    if len(bad) > 0:
        say(f":no_entry: {', '.join(b['Name'] for b in bad)} cannot be expensed")
        return
    say("Looks good, forwarding to accounting")
    client.chat_postMessage(channel="#accounting", text=url)
