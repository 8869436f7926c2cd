from dataclasses import dataclass, field
from typing import List, Optional
import boto3


@dataclass
class Rule:
    name: str
    labels: List[str]
    min_confidence: float = 75.0

    def matches(self, found) -> bool:
        return any(l['Name'] in self.labels and l['Confidence'] >= self.min_confidence for l in found)


@dataclass
class Config:
    rules: List[Rule] = field(default_factory=lambda: [
        Rule('traffic', ['Car', 'Bus', 'Truck'], 80.0),
        Rule('nature', ['Tree', 'Grass', 'Flower']),
        Rule('people', ['Person'], 90.0),
    ])


class Tagger:
    def __init__(self, config: Optional[Config] = None):
        self.config = config or Config()
        self.client = boto3.client('rekognition', region_name='us-east-1')

    def tag(self, image_bytes: bytes) -> List[str]:
        found = self.client.detect_labels(Image={'Bytes': image_bytes})['Labels']
        return [rule.name for rule in self.config.rules if rule.matches(found)]


if __name__ == '__main__':
    import sys
    with open(sys.argv[1], 'rb') as f:
        tags = Tagger().tag(f.read())
    print(','.join(tags) if tags else 'untagged')
