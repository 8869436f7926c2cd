"""Ticks the boxes of the hand-over protocol when a room is photographed."""
from dataclasses import dataclass

import boto3


@dataclass
class Protocol:
    furniture: bool = False
    lighting: bool = False
    waste: bool = False


def inspect(path):
    with open(path, "rb") as picture:
        labels = boto3.client("rekognition").detect_labels(Image={"Bytes": picture.read()}, MaxLabels=15)["Labels"]
    protocol = Protocol()
    for label in labels:
        name = label["Name"]
        if name in {"Chair", "Table", "Bench"}:
            protocol.furniture = True
        if name == "Candle":
            protocol.lighting = True
        if name in {"Plastic bottle", "Tin can", "Carton"}:
            protocol.waste = True
    return protocol
