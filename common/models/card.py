"""The tables of MODELS.md, written from what lies beside the weights, so that no number in it is typed by hand.

    python -m common.models.card               rewrite the tables between the markers
    python -m common.models.card check=true    exit status 1 if they are not what the stored files say

Every table stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; the text around them is written by hand.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.models.gates import BUNDLED

CARD = Path(__file__).parent / "MODELS.md"

_LENGTHS = (2, 6, 12, 24, 40)


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's options; see the module's docstring."""

    check: bool = False


def _stored(size: str, name: str) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((BUNDLED / size / name).read_text())
    return stored


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def sizes_table(sizes: Sequence[str]) -> str:
    """One row per size: architecture, file, training."""
    rows = []
    for size in sizes:
        training, config = _stored(size, "training.json"), _stored(size, "config.json")
        megabytes = (BUNDLED / size / "model.safetensors").stat().st_size / 1e6
        rows.append(
            [
                size,
                f"{training['parameters'] / 1e6:.2f} M",
                str(config["num_hidden_layers"]),
                str(config["hidden_size"]),
                f"{config['num_attention_heads']} / {config['num_key_value_heads']}",
                f"{config['max_position_embeddings']:,}",
                f"{megabytes:.1f} MB",
            ]
        )
    return _table(["", "parameters", "layers", "width", "query / KV heads", "context", "file"], rows)


def training_table(sizes: Sequence[str]) -> str:
    """One row per run that the weights went through."""
    rows = []
    for size in sizes:
        training = _stored(size, "training.json")
        for run in [*training.get("before", []), training]:
            stages = ", ".join(goal["stage"] for goal in run["goals"])
            rows.append(
                [
                    size,
                    stages if len(run["goals"]) <= 3 else f"{run['goals'][0]['stage']} to {run['goals'][-1]['stage']}",
                    f"{sum(goal['steps'] for goal in run['goals']):,}",
                    f"{run['tokens'] / 1e6:.1f} M",
                    f"{run['wall_s'] / 60:.0f} min",
                    f"{run['machine']['processor']}, torch {run['machine']['torch']}",
                ]
            )
    return _table(["", "stages", "steps", "tokens", "wall time", "machine"], rows)


def gates_table(sizes: Sequence[str]) -> str:
    """One row per gate and size."""
    rows = []
    for size in sizes:
        gates = _stored(size, "gates.json")
        a, b, c, d = (gates[name] for name in "abcd")
        across, inside = b["across_chunks"], b["in_chunk"]
        accuracy = ", ".join(f"{family} {_percent(value)}" for family, value in a["accuracy"].items())
        rows += [
            [
                size,
                "a full prefill",
                f"{accuracy} (n={a['items']} each)",
                f"each >= {_percent(a['at_least'])}",
                _verdict(a),
            ],
            [
                size,
                "b full reuse",
                f"across chunks: full {_percent(across['full'])}, reuse {_percent(across['reuse_with_bos'])} with BOS, "
                f"{_percent(across['reuse_without_bos'])} without (n={across['items']}); in one chunk: full "
                f"{_percent(inside['full'])}, reuse {_percent(inside['reuse_with_bos'])}, "
                f"{_percent(inside['reuse_without_bos'])} (n={inside['items']})",
                f"better reuse <= {b['reuse_at_most_of_full']} of full across, >= {b['in_chunk_at_least_of_full']} within",
                _verdict(b),
            ],
            [
                size,
                "c patching",
                f"the true KV of the answer's sentence ({_percent(c['share_of_tokens_patched'])} of the tokens) restores "
                f"{_percent(c['restored_by_the_sentence'])} of the answers that reuse lost, as many other tokens "
                f"{_percent(c['restored_by_as_many_other_tokens'])} (n={c['items']})",
                f">= {_percent(c['at_least'])}",
                _verdict(c),
            ],
            [
                size,
                "d lone chunks",
                f"later chunk alone {d['later_chunk_alone_loss']:.2f}, first chunk {d['first_chunk_loss']:.2f} nats per token "
                f"(in place {d['later_chunk_in_place_loss']:.2f})",
                f"<= {d['at_most_times_first']} x first",
                _verdict(d),
            ],
        ]
    return _table(["", "gate", "measured", "needed", ""], rows)


def _verdict(gate: Mapping[str, Any]) -> str:
    return "passed" if gate["passed"] else "**failed**"


def scores_table(size: str) -> str:
    """Accuracy by family, split and context length."""
    families = _stored(size, "gates.json")["scores"]["families"]
    rows = []
    for family, cells in families.items():
        row = [family]
        for split in ("dev", "test"):
            row += [f"{cells[f'{split}_{length}_chunks']['accuracy']:.2f}" for length in _LENGTHS]
        rows.append(row)
        if "rouge_l" in cells["dev_2_chunks"]:
            shown = [
                cells[f"{split}_{length}_chunks"].get("rouge_l") for split in ("dev", "test") for length in _LENGTHS
            ]
            rows.append([f"{family}, ROUGE-L", *("" if value is None else f"{value:.2f}" for value in shown)])
    first = families["single_fact"]
    for key, label in (("mean_context_tokens", "context tokens (single_fact)"), ("items", "items")):
        rows.append(
            [label, *(str(first[f"{split}_{length}_chunks"][key]) for split in ("dev", "test") for length in _LENGTHS)]
        )
    head = ["family", *(f"{split} {length}" for split in ("dev", "test") for length in _LENGTHS)]
    return _table(head, rows)


def compared_table(sizes: Sequence[str]) -> str:
    """The sizes side by side: accuracy on held-out wordings by family, and the means over all families."""
    if len(sizes) < 2:
        return f"Only `{sizes[0]}` is shipped: nothing to compare."
    cells = {size: _stored(size, "gates.json")["scores"]["families"] for size in sizes}
    keys = [f"test_{length}_chunks" for length in _LENGTHS]
    rows = [
        [family, *(f"{cells[size][family][key]['accuracy']:.2f}" for key in keys for size in sizes)]
        for family in cells[sizes[0]]
    ]
    means = [
        sum(cell[key]["accuracy"] for cell in cells[size].values()) / len(cells[size]) for key in keys for size in sizes
    ]
    rows.append(["mean of the families", *(f"{mean:.2f}" for mean in means)])
    return _table(["held-out wording", *(f"{size} {length}" for length in _LENGTHS for size in sizes)], rows)


def variants_table(sizes: Sequence[str]) -> str:
    """Multi-hop questions by number of hops and style, at the default length and held-out wording."""
    rows = []
    for size in sizes:
        cell = _stored(size, "gates.json")["scores"]["families"]["multi_hop"]["test_6_chunks"]
        rows.append([size, ", ".join(f"{name} {value:.2f}" for name, value in cell["variants"].items())])
    return _table(["", "multi_hop by variant (6 chunks, test)"], rows)


def parts_table(sizes: Sequence[str]) -> str:
    """Readers of one chunk."""
    rows = []
    for size in sizes:
        for family, kinds in _stored(size, "gates.json")["parts"]["families"].items():
            cells = [
                f"{kinds[kind]['accuracy']:.2f} ({kinds[kind]['items']})" if kinds[kind]["items"] else "-"
                for kind in kinds
            ]
            rows.append([size, family, *cells])
    return _table(["", "family", "the chunk states the answer", 'it does not: "unknown"'], rows)


def kv_table(size: str) -> str:
    """KV statistics by layer."""
    layers = _stored(size, "kv_statistics.json")["per_layer"]
    names = {
        "locality_k": "variance / variance of change, K",
        "locality_v": "the same, V",
        "channel_spread_k": "channel spread, K",
        "channel_spread_v": "channel spread, V",
        "top_share_v": "share of V deviation in the top 15 % of tokens",
        "rank_agreement_v": "rank correlation with the next layer (layers 1 on)",
    }
    count = len(layers["locality_k"])
    rows = []
    for name, label in names.items():
        values = [f"{value:.2f}" for value in layers[name]]
        rows.append([label, *values, *([""] * (count - len(values)))])
    return _table([f"`{size}`, per layer", *map(str, range(count))], rows)


def render(text: str, sizes: Sequence[str]) -> str:
    """The card with its tables made anew.

    Raises:
        ConfigError: the card has no place for one of the tables.
    """
    tables = {
        "sizes": sizes_table(sizes),
        "training": training_table(sizes),
        "gates": gates_table(sizes),
        "scores": "\n\n".join(f"`{size}`\n\n{scores_table(size)}" for size in sizes),
        "compared": compared_table(sizes),
        "variants": variants_table(sizes),
        "parts": parts_table(sizes),
        "kv": "\n\n".join(kv_table(size) for size in sizes),
    }
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ConfigError(
                f"the card has no place for the table {name!r}: add <!-- {name}:begin --> and <!-- {name}:end -->."
            )
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)  # type: ignore[misc]
    return text


def shipped() -> list[str]:
    """Sizes with weights, smallest first."""
    found = [folder.name for folder in BUNDLED.iterdir() if (folder / "model.safetensors").exists()]
    return sorted(found, key=lambda size: (BUNDLED / size / "model.safetensors").stat().st_size)


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    from common.models.train import parse_options

    options: Options = parse_options(arguments, Options)
    before = CARD.read_text()
    after = render(before, shipped())
    if options.check:
        print("MODELS.md says what is stored" if before == after else "MODELS.md is out of date")
        return int(before != after)
    CARD.write_text(after)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr)
        sys.exit(2)
