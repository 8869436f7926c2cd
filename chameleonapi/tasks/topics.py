"""Short texts about one to three of nineteen topics: the bundled text task.

A text is 8 to 24 words: common words, words of its topics, and words of related topics, so that topics are confused with their
neighbours. Topics are TweetTopic's, under names as Google's `classify_text` writes them.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
import yaml
from torch import Tensor

from chameleonapi.tasks.task import Examples, UnreadableContent
from common.errors import ConfigError
from common.rng import for_component

MAX_WORDS = 24
COMMON_SHARE = 0.45
LEAK_SHARE = 0.3  # of a topic's words, those that come from a related topic

# topic -> (related topics, its words)
TOPICS: dict[str, tuple[tuple[str, ...], str]] = {
    topic: (tuple(entry["related"]), entry["words"])
    for topic, entry in yaml.safe_load((files("chameleonapi.tasks") / "topics.yaml").read_text()).items()
}
COMMON = (
    "the a and to of in is for on with this that it was are be at have from just so very really new today now one all my your "
    "our we they people time day good great best more about out up can will get see know want think back first last year week"
)
LABELS = tuple(TOPICS)
CATEGORIES = {
    "culture": ("/Arts & Culture", "/Celebrity", "/Fashion", "/Film & TV", "/Music"),
    "life": ("/Daily Life", "/Family", "/Relationships", "/Youth", "/Food & Drink"),
    "leisure": ("/Gaming", "/Hobbies", "/Sports", "/Travel", "/Fitness & Health"),
    "affairs": ("/Business", "/Learning", "/News", "/Science & Technology"),
}


@lru_cache(maxsize=1)
def dictionary() -> dict[str, int]:
    """Words to ids, from 2 on; 0 is padding, 1 any other word."""
    words = dict.fromkeys(COMMON.split())
    for _, own in TOPICS.values():
        words |= dict.fromkeys(own.split())
    return {word: place + 2 for place, word in enumerate(words)}


def write(rng: np.random.Generator) -> tuple[str, list[int]]:
    """One text and the indices of its topics."""
    topics = sorted(rng.choice(len(LABELS), rng.integers(1, 4), replace=False).tolist())
    common = COMMON.split()
    words = []
    for _ in range(int(rng.integers(8, MAX_WORDS + 1))):
        if rng.random() < COMMON_SHARE:
            words.append(common[rng.integers(len(common))])
            continue
        related, own = TOPICS[LABELS[topics[rng.integers(len(topics))]]]
        pool = own if rng.random() >= LEAK_SHARE else TOPICS[related[rng.integers(len(related))]][1]
        choices = pool.split()
        words.append(choices[rng.integers(len(choices))])
    return " ".join(words), topics


def encode(text: str) -> Tensor:
    """Word ids of a text, (1, MAX_WORDS) int64; words after the MAX_WORDS-th are left out."""
    known = dictionary()
    ids = [known.get(word, 1) for word in re.findall(r"[a-z']+", text.lower())[:MAX_WORDS]]
    return torch.tensor([ids + [0] * (MAX_WORDS - len(ids))])


@dataclass(frozen=True)
class TopicTask:
    """The task as `chameleonapi.tasks.task.Task`."""

    name: str = "topics"
    labels: tuple[str, ...] = LABELS
    vocabulary: str = "topic"
    categories: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(CATEGORIES))

    def examples(self, split: str, seed: int, n: int) -> Examples:
        """n texts; splits and seeds never share a random stream."""
        if split not in ("train", "validation", "test"):
            raise ConfigError(f"split {split!r} is not known. Use train, validation or test.")
        rng = for_component(seed, "chameleonapi", "topics", split)
        rows, labels = [], torch.zeros(n, len(LABELS), dtype=torch.bool)
        for row in range(n):
            text, topics = write(rng)
            rows.append(encode(text))
            labels[row, topics] = True
        return Examples(torch.cat(rows) if rows else torch.zeros(0, MAX_WORDS, dtype=torch.long), labels)

    def content(self, inputs: Tensor, index: int) -> bytes:
        """A text in UTF-8."""
        words = {number: word for word, number in dictionary().items()}
        return " ".join(words.get(int(number), "thing") for number in inputs[index] if number).encode()

    def read(self, content: bytes) -> Tensor:
        """A UTF-8 text as word ids, (1, MAX_WORDS)."""
        try:
            return encode(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UnreadableContent(f"the content ({len(content)} bytes) is not UTF-8 text: {error.reason}.") from error
