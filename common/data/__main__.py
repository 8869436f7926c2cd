"""Look at the text sources from the command line.

python -m common.data list                                  every dataset, its options and where it may come from
python -m common.data show squad --root DATA_ROOT           the first items of a local dataset
python -m common.data show multi_hop --source generated     ... of the generator
python -m common.data check --root DATA_ROOT                which local datasets a data root holds, and what is in them
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from common.data.items import QAItem
from common.data.sources import DATASETS, SOURCES, DataSpec, TextDataset, load_items
from common.errors import ConfigError, DataUnavailable, ReproError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 if `check` found nothing, 2 for a refused setting or missing data."""
    parser = argparse.ArgumentParser(prog="python -m common.data", description="Look at the text sources.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every dataset, its options and where it may come from")
    show = commands.add_parser("show", help="print the first items of a dataset")
    show.add_argument("dataset", help="a name from `list`; of the generator, a task family")
    show.add_argument("--source", default="local", help=f"one of {', '.join(SOURCES)} (default: local)")
    show.add_argument("--root", help="data root of local files; they lie in its folder text")
    show.add_argument("--num", type=int, default=1, help="how many items (default: 1)")
    show.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the dataset")
    check = commands.add_parser("check", help="which local datasets a data root holds")
    check.add_argument("--root", required=True, help="the data root")
    given = parser.parse_args(arguments)
    try:
        if given.command == "list":
            return _list()
        if given.command == "check":
            return _check(given.root)
        options = dict(_option(text) for text in given.option)
        spec = DataSpec(given.source, given.dataset, given.root, options)
        for item in load_items(spec, given.num):
            print(_described(item))
        return 0
    except ReproError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _list() -> int:
    for name in DATASETS:
        dataset = DATASETS.get(name)
        print(f"{name}: {DATASETS.summary(name)}")
        for knob, default in DATASETS.knobs(name).items():
            print(f"    option {knob}={default!r}")
        print(f"    licence {dataset.licence}")
        if dataset.paths is not TextDataset.paths:
            print(f"    local   from {dataset.origin}")
        if dataset.hub:
            print(f"    hf      {'; '.join(map(str, dataset.hub))}")
    return 0


def _check(root: str) -> int:
    if not Path(root).is_dir():
        raise DataUnavailable(f"data root {root!r} is not a folder.")
    num_found = 0
    for name in DATASETS:
        try:
            items = list(load_items(DataSpec("local", name, root)))
        except DataUnavailable as error:
            print(f"{name:16} -  {error}")
            continue
        except ConfigError:
            continue  # "jsonl" cannot be looked at without a file
        if not items:
            print(f"{name:16} -  the file holds no items")
            continue
        chunks = sum(len(item.chunks) for item in items) / len(items)
        words = sum(len(chunk.split()) for item in items for chunk in item.chunks) / len(items)
        print(f"{name:16} {len(items):5} items, on average {chunks:.0f} chunks and {words:.0f} words of context")
        num_found += 1
    return 0 if num_found else 1


def _option(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not found:
        raise ConfigError(f"option {text!r} has no value; write NAME=VALUE.")
    return name, yaml.safe_load(value)


def _described(item: QAItem) -> str:
    lines = [f"{item.item_id} ({item.family})"]
    for index, chunk in enumerate(item.chunks[:6]):
        mark = "*" if index in item.evidence else " "
        lines.append(f"  {mark}[{index}] {_shortened(chunk)}")
    if len(item.chunks) > 6:
        lines.append(f"   ... {len(item.chunks)} chunks in all; evidence: {_shortened(str(list(item.evidence)))}")
    lines.append(f"   question: {_shortened(item.question)}")
    lines += [f"   gold: {_shortened(answer)}" for answer in item.answers]
    lines.append(f"   scored by {item.metric}, at most {item.max_answer_tokens} tokens")
    return "\n".join(lines)


def _shortened(text: str, limit: int = 100) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


if __name__ == "__main__":
    sys.exit(main())
