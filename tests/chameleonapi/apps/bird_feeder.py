import asyncio
from dataclasses import dataclass, field
from enum import Enum

from google.cloud import vision


class Visitor(Enum):
    BIRD = "bird"
    SQUIRREL = "squirrel"
    CAT = "cat"
    NOBODY = "nobody"


@dataclass
class Sighting:
    who: Visitor = Visitor.NOBODY
    score: float = 0.0
    names: list = field(default_factory=list)


async def annotate(client, content):
    return await client.label_detection(image=vision.Image(content=content))


def interpret(annotations) -> Sighting:
    s = Sighting()
    for a in annotations:
        s.names.append(a.description)
        match a.description:
            case "Squirrel" | "Chipmunk":
                s.who = Visitor.SQUIRREL
            case "Cat" | "Kitten":
                s.who = Visitor.CAT
            case "Bird" | "Finch" | "Robin" | "Sparrow":
                s.who = Visitor.BIRD
            case _:
                continue
        s.score = a.score
        break
    return s


async def main():
    client = vision.ImageAnnotatorAsyncClient()
    content = open("feeder.jpg", "rb").read()
    response = await annotate(client, content)
    sighting = interpret(response.label_annotations)
    if sighting.who is Visitor.CAT:
        print("alarm!")
    elif sighting.who is Visitor.SQUIRREL:
        print("close the hatch")
    elif sighting.who is Visitor.BIRD:
        print("welcome")


asyncio.run(main())
