import asyncio
import enum
import logging
from dataclasses import dataclass, field
from typing import List, Optional

from fastapi import FastAPI, File, HTTPException, UploadFile
from google.cloud import vision_v1 as vision

log = logging.getLogger(__name__)
app = FastAPI()


class Department(str, enum.Enum):
    ROADS = "roads"
    PARKS = "parks"
    SANITATION = "sanitation"


@dataclass(frozen=True)
class Rule:
    department: Department
    labels: List[str] = field(default_factory=list)
    min_score: float = 0.6

    def matches(self, annotation) -> bool:
        return annotation.score >= self.min_score and annotation.description.lower() in self.labels


RULES = [
    Rule(Department.ROADS, ["pothole", "road", "asphalt", "traffic sign", "street light"]),
    Rule(Department.PARKS, ["tree", "grass", "park", "flower"], min_score=0.7),
    Rule(Department.SANITATION, ["waste", "litter", "garbage truck", "waste container"]),
]


async def annotate(content: bytes):
    client = vision.ImageAnnotatorAsyncClient()
    request = vision.AnnotateImageRequest(
        image=vision.Image(content=content),
        features=[vision.Feature(type_=vision.Feature.Type.LABEL_DETECTION, max_results=10)],
    )
    batch = await client.batch_annotate_images(requests=[request])
    return batch.responses[0].label_annotations


def route(annotations) -> Optional[Department]:
    for annotation in annotations:
        for rule in RULES:
            if rule.matches(annotation):
                return rule.department
    return None


@app.post("/report")
async def report(file: UploadFile = File(...)):
    content = await file.read()
    annotations = await annotate(content)
    department = route(annotations)
    if department is None:
        raise HTTPException(status_code=422, detail="cannot tell who is responsible")
    log.info("routed to %s", department)
    return {"department": department.value}
