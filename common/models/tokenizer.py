"""The bundled tokenizer: byte-level BPE trained on the generator's text, so every word of it is one token and any text works.

    python -m common.models.tokenizer path=common/models/bundled/small

Bytes are the base alphabet, so decoding gives back exactly what was encoded, whatever the language. The markers of
`common.models.prompt_format` are special tokens. Nothing is added by `tokenizer(text)`: prompts are built from ids.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from common.data.synthetic import FAMILIES, generate
from common.errors import ConfigError
from common.models.prompt_format import BOS, EOS, PAD, SPECIAL_TOKENS

VOCAB_SIZE = 2560
CONTEXT_TOKENS = 2048


def corpus(num_items: int = 400) -> Iterator[str]:
    """Text from every family, wordings of the training split only."""
    for family in FAMILIES:
        for item in generate(family, "train", seed=0, n=num_items):
            yield " " + " ".join(item.chunks)
            yield " " + item.question
            yield " " + item.answers[0]
    # A few hundred everyday words beyond the generator's own keep ordinary English from falling apart into bytes.
    yield " " + " ".join(_EVERYDAY.split() * 40)


def train_tokenizer(vocab_size: int = VOCAB_SIZE) -> Any:
    """Train the tokenizer; returns a transformers fast tokenizer.

    The library breaks ties between equally frequent merges by hash order: two runs give the same words other ids. So the shipped
    tokenizer is an input of the models' training, not something to be made again.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    raw.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


# Frequent English words that the generator does not use, most frequent first; written down by hand.
_EVERYDAY = """of and to a in that it for on with as was be by at this had not are but from or have an they which you were her all
    their there been one so if will would no said can more when who what up out about into than them its then two could
    time only may my first new do other some now over me most like after man people our made such must back also way many
    through years before well work just good where those because life very even here how long get much own too day still
    year place between last us small under never same while house against without might another come old great since
    right use during world take himself used think again however see go three few home became off every left school though
    kind until something always number part less say water side night high course being around need asked once country
    public thing end small fact does got next sure better given set group enough area city find name later order line half
    interest head done question early case system"""


def main(arguments: list[str]) -> int:
    """Command line: train and save into `path`."""
    path = ""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key != "path" or not value:
            raise ConfigError(f"{argument!r} is not an option. The only one is path=FOLDER.")
        path = value
    if not path:
        raise ConfigError("no path given. Say where to save the tokenizer: path=FOLDER.")
    tokenizer = train_tokenizer()
    os.makedirs(path, exist_ok=True)
    tokenizer.save_pretrained(path)
    print(json.dumps({"path": path, "tokens": len(tokenizer)}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr)
        sys.exit(2)
