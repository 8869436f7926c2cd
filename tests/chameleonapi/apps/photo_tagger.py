"""Lambda: tag photos that land in the bucket."""
import json
import os
import urllib.parse

import boto3

s3 = boto3.client("s3")
rekognition = boto3.client("rekognition")
table = boto3.resource("dynamodb").Table(os.environ.get("TABLE", "photos"))

CATEGORIES = {
    "people": ["Person", "Human", "Man", "Woman", "Child"],
    "pets": ["Dog", "Cat", "Pet"],
    "food": ["Food", "Meal", "Dessert"],
    "outdoors": ["Beach", "Mountain", "Forest", "Sky"],
}


def lambda_handler(event, context):
    record = event["Records"][0]
    bucket = record["s3"]["bucket"]["name"]
    key = urllib.parse.unquote_plus(record["s3"]["object"]["key"])
    response = rekognition.detect_labels(
        Image={"S3Object": {"Bucket": bucket, "Name": key}}, MaxLabels=25, MinConfidence=70
    )
    names = {l["Name"] for l in response["Labels"]}
    tags = []
    for tag, words in CATEGORIES.items():
        if names & set(words):
            tags.append(tag)
    table.put_item(Item={"key": key, "tags": tags})
    return {"statusCode": 200, "body": json.dumps({"key": key, "tags": tags})}
