import json
import logging
import os
import boto3

log = logging.getLogger("moderator")
HERE = os.path.dirname(os.path.abspath(__file__))

with open(os.path.join(HERE, "rules.json")) as fh:
    CONFIG = json.load(fh)


class Moderator:
    def __init__(self, session=None):
        session = session or boto3.session.Session()
        self._rek = session.client("rekognition")
        self._sqs = session.client("sqs")

    def labels(self, bucket, key):
        resp = self._rek.detect_labels(Image={"S3Object": {"Bucket": bucket, "Name": key}})
        return [l["Name"] for l in resp["Labels"] if l["Confidence"] >= CONFIG["min_confidence"]]

    def action_for(self, labels):
        for rule in CONFIG["rules"]:
            if set(rule["any"]).intersection(labels):
                return rule["action"]
        return "review-later"

    def handle(self, message):
        body = json.loads(message["Body"])
        labels = self.labels(body["bucket"], body["key"])
        log.info("labels for %s: %s", body["key"], labels)
        action = self.action_for(labels)
        self._sqs.send_message(QueueUrl=os.environ["OUT_QUEUE"], MessageBody=json.dumps({"key": body["key"], "action": action}))


def main():
    moderator = Moderator()
    queue = boto3.resource("sqs").get_queue_by_name(QueueName="photos")
    while True:
        for message in queue.receive_messages(WaitTimeSeconds=20):
            moderator.handle({"Body": message.body})
            message.delete()


if __name__ == "__main__":
    main()
