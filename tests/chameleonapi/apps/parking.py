from typing import List, Optional
import boto3


class LabelClient:
    def __init__(self, region: str = "eu-central-1"):
        self._c = boto3.client("rekognition", region_name=region)

    def __call__(self, payload: bytes) -> List[dict]:
        return self._c.detect_labels(Image={"Bytes": payload}, MaxLabels=50)["Labels"]


class Spot:
    LIMITS = {"Car": 90.0, "Motorcycle": 80.0, "Bicycle": 70.0}

    def __init__(self, client: Optional[LabelClient] = None) -> None:
        self.client = client or LabelClient()
        self.occupied = False

    def update(self, payload: bytes) -> None:
        self.occupied = False
        for label in self.client(payload):
            limit = self.LIMITS.get(label["Name"])
            if limit is not None and label["Confidence"] >= limit:
                self.occupied = True
