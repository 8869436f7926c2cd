#!/usr/bin/env python
# robot arm in the play room: picks up what lies on the floor and puts it where it belongs
import boto3


class Arm:
    def __init__(self):
        self.rekognition = boto3.client("rekognition")
        self.target = None

    def look(self, frame):
        self.target = None
        labels = self.rekognition.detect_labels(Image={"Bytes": frame}, MinConfidence=0)["Labels"]
        for label in labels:
            name, confidence = label["Name"], label["Confidence"]
            if name in ["Ball", "Wheel", "Boomerang"]:
                self.target = "toy box"
            elif name in ["Shirt", "Sweater", "Jacket", "T-shirt"]:
                self.target = "laundry"
            elif name.endswith("bottle") or name == "Tin can":
                self.target = "kitchen"
            if self.target:
                break
        return self.target
