import json
import sys

import boto3

FOOD = ("Pizza", "Sandwich", "Doughnut", "Cheese")
PARCEL = ("Cardboard", "Carton", "Envelope")
GIFT = ("Flower", "Sunflower", "Bracelet")


def main(argv):
    client = boto3.client("rekognition")
    with open(argv[1], "rb") as handle:
        response = client.detect_labels(Image={"Bytes": handle.read()})
    seen = [item["Name"] for item in response["Labels"]]
    if any(x in seen for x in FOOD):
        reaction = {"door": "open", "say": "mmh"}
    elif any(x in seen for x in PARCEL):
        reaction = {"door": "hatch", "say": "please leave it here"}
    elif any(x in seen for x in GIFT):
        reaction = {"door": "open", "say": "how kind"}
    else:
        reaction = {"door": "shut"}
    print(json.dumps(reaction, sort_keys=True))


if __name__ == "__main__":
    main(sys.argv)
