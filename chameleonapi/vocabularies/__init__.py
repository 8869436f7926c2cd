"""Labels that the ML APIs can answer, by vocabulary name.

"image" is a list of our own of everyday names as image-labelling APIs use them (the providers do not publish theirs);
"topic" and "moderation" are taxonomies that the providers document; the small enumerations are complete. Give
`parse_application` your own list if you have one.
"""

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from common.errors import ConfigError

NAMES = (
    "image",
    "object",
    "topic",
    "moderation",
    "text_moderation",
    "sentiment",
    "emotion",
    "google_entity",
    "aws_entity",
)


@lru_cache
def load_vocabulary(name: str) -> tuple[str, ...]:
    """The bundled vocabulary called `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    from chameleonapi.parser import providers

    fixed = {
        "sentiment": providers.SENTIMENTS,
        "emotion": providers.EMOTIONS,
        "google_entity": providers.GOOGLE_ENTITY_TYPES,
        "aws_entity": providers.AWS_ENTITY_TYPES,
    }
    if name in fixed:
        return tuple(fixed[name])
    if name not in NAMES:
        raise ConfigError(f"vocabulary {name!r} is not known. Choose one of {', '.join(NAMES)}.")
    file = files("chameleonapi.vocabularies") / f"{'image' if name == 'object' else name}.txt"
    return tuple(line for line in file.read_text(encoding="utf-8").splitlines() if line.strip())


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """A vocabulary from a file: one label per line, or a JSON list of labels. Quotes around labels and repetitions are dropped.

    Raises:
        ConfigError: the file does not exist, is not UTF-8, is damaged JSON, or holds no label.
    """
    import json

    if not path.is_file():
        raise ConfigError(f"vocabulary file {str(path)!r} does not exist. Give a text file with one label per line.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except ValueError as error:
        raise ConfigError(
            f"vocabulary file {str(path)!r} cannot be read: {error}. Write UTF-8, one label per line or a JSON list."
        ) from error
    if not isinstance(data, (list, dict)):
        raise ConfigError(
            f"vocabulary file {str(path)!r} holds a JSON {type(data).__name__}. Write a JSON list of labels."
        )
    labels = [str(x) for x in (data if isinstance(data, list) else data.values())]
    cleaned = tuple(dict.fromkeys(label.strip().strip('"') for label in labels if label.strip().strip('"')))
    if not cleaned:
        raise ConfigError(f"vocabulary file {str(path)!r} holds no label. Write one label per line.")
    return cleaned
