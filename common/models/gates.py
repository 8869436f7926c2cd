"""The four gates that a bundled model must pass before a paper's experiment may rest on it, and its scores.

    python -m common.models.gates size=small              all gates and scores; exit status 1 if a gate fails
    python -m common.models.gates size=small gate=c       one gate
    python -m common.models.gates size=small write=true   also write gates.json beside the weights

Options: size=small|base, path=FOLDER (instead of size), gate=all|a|b|c|d|scores|parts, num_items=200 (of each gate),
score_items=48 (of each cell of the scores), seed=1000, threads=1, write=false.

    a  full prefill answers its in-context families: at least 95 % on held-out wordings
    b  full reuse of per-chunk KV (the better of with and without BOS) is far below that on references across chunks,
       and is not on questions whose evidence lies in one chunk and names its subject
    c  giving the reused KV the true KV of the sentence that states the answer (and of nothing else) restores the answer;
       the same number of other tokens does not
    d  a chunk that is read alone is nothing unusual: its language-model loss is close to that of a first chunk in place

    scores  accuracy after full prefill by family, split and context length; ROUGE-L of summaries
    parts   answers of a reader who is shown one chunk of the context: the gold answer where the chunk states it, else "unknown"

"Right" means that greedy decoding yields exactly the gold answer. All items are of the split "test": unseen texts in held-out
wordings. The thresholds are constants of this module, set before any model was measured with it.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from common.data.synthetic import FAMILIES, Annotated, annotate, generate
from common.data.synthetic.scenes import read
from common.errors import ConfigError, DataUnavailable
from common.rng import for_component

BUNDLED = Path(__file__).parent / "bundled"

IN_CONTEXT_FAMILIES = ("single_fact", "coreference")
FULL_AT_LEAST = 0.95
REUSE_AT_MOST_OF_FULL = 0.6
IN_CHUNK_AT_LEAST_OF_FULL = 0.85
RESTORED_AT_LEAST_OF_FULL = 0.85
LONE_LOSS_AT_MOST = 1.15

# Context of the gates: the generator's default, about 270 tokens.
_CONTEXT: dict[str, Any] = {"num_chunks": 6, "chunk_sentences": 5}


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's options; see the module's docstring."""

    size: str = "small"
    path: str = ""
    gate: str = "all"
    num_items: int = 200
    score_items: int = 48
    seed: int = 1000
    threads: int = 1
    write: bool = False


def load_bundled(size: str = "", path: str = "") -> tuple[Any, Any]:
    """Model (fp32, CPU, evaluation mode) and tokenizer of a bundled size or of a folder.

    Raises:
        DataUnavailable: the folder holds no model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(path) if path else BUNDLED / size
    if not (folder / "config.json").exists():
        raise DataUnavailable(
            f"{folder} holds no model. Train one: python -m common.models.train size={size or 'small'} out={folder}"
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def _share(values: list[bool]) -> float:
    return float(np.mean(values)) if values else 0.0


def gate_a(model: Any, tokenizer: Any, num_items: int, seed: int) -> dict[str, Any]:
    """Full prefill on the in-context families."""
    from common.models.gates_scoring import answered_right, prompt_of

    accuracy = {
        family: _share(
            answered_right(
                model, [prompt_of(tokenizer, item) for item in generate(family, "test", seed, num_items, **_CONTEXT)]
            )
        )
        for family in IN_CONTEXT_FAMILIES
    }
    return {
        "passed": min(accuracy.values()) >= FULL_AT_LEAST,
        "items": num_items,
        "accuracy": accuracy,
        "at_least": FULL_AT_LEAST,
    }


def _in_chunk(one: Annotated) -> bool:
    """The answer's sentence names its subject, so reading its chunk alone is enough."""
    return not any(fact.is_referred for fact in one.question.facts)


def gate_b(model: Any, tokenizer: Any, num_items: int, seed: int) -> dict[str, Any]:
    """Full reuse against full prefill, on references across chunks and on named facts."""
    from common.models.gates_scoring import answer_from, answered_right, prompt_of, reused_kv

    result: dict[str, Any] = {}
    for label, family in (("across_chunks", "coreference"), ("in_chunk", "single_fact")):
        items = [
            one
            for one in annotate(family, "test", seed, num_items, **_CONTEXT)
            if label == "across_chunks" or _in_chunk(one)
        ]
        prompts = [prompt_of(tokenizer, one.item) for one in items]
        result[label] = {
            "items": len(prompts),
            "full": _share(answered_right(model, prompts)),
            "reuse_with_bos": _share([answer_from(model, p, reused_kv(model, p, with_bos=True))[0] for p in prompts]),
            "reuse_without_bos": _share(
                [answer_from(model, p, reused_kv(model, p, with_bos=False))[0] for p in prompts]
            ),
        }
    across, inside = result["across_chunks"], result["in_chunk"]
    better_across = max(across["reuse_with_bos"], across["reuse_without_bos"])
    better_inside = max(inside["reuse_with_bos"], inside["reuse_without_bos"])
    passed = (
        better_across <= REUSE_AT_MOST_OF_FULL * across["full"]
        and better_inside >= IN_CHUNK_AT_LEAST_OF_FULL * inside["full"]
    )
    return {
        "passed": bool(passed),
        **result,
        "reuse_at_most_of_full": REUSE_AT_MOST_OF_FULL,
        "in_chunk_at_least_of_full": IN_CHUNK_AT_LEAST_OF_FULL,
    }


def gate_c(model: Any, tokenizer: Any, num_items: int, seed: int) -> dict[str, Any]:
    """Patching the sentence that states the answer, among items that full prefill answers and reuse does not."""
    from common.models.gates_scoring import answer_from, full_kv, patched, prompt_of, reused_kv, sentence_positions

    rng = for_component(seed, "gate_c")
    broken, restored, elsewhere, shares = 0, [], [], []
    for one in annotate("coreference", "test", seed, num_items, **_CONTEXT):
        prompt = prompt_of(tokenizer, one.item)
        full, reused = full_kv(model, prompt), reused_kv(model, prompt, with_bos=True)
        if not answer_from(model, prompt, full)[0] or answer_from(model, prompt, reused)[0]:
            continue
        broken += 1
        binding = sorted(
            {
                position
                for fact in one.question.facts
                for position in sentence_positions(tokenizer, one, prompt, fact.chunk, fact.sentence)
            }
        )
        others = sorted(set(range(1, len(prompt.context))) - set(binding))
        control = rng.choice(others, len(binding), replace=False).tolist()
        restored.append(answer_from(model, prompt, patched(reused, full, binding))[0])
        elsewhere.append(answer_from(model, prompt, patched(reused, full, control))[0])
        shares.append(len(binding) / len(prompt.context))
    return {
        "passed": broken > 0 and _share(restored) >= RESTORED_AT_LEAST_OF_FULL,
        "items": broken,
        "restored_by_the_sentence": _share(restored),
        "restored_by_as_many_other_tokens": _share(elsewhere),
        "share_of_tokens_patched": float(np.mean(shares)) if shares else 0.0,
        "at_least": RESTORED_AT_LEAST_OF_FULL,
    }


def gate_d(model: Any, tokenizer: Any, num_items: int, seed: int) -> dict[str, Any]:
    """Language-model loss of later chunks read alone, against first chunks where they stand."""
    from common.models.gates_scoring import prompt_of, text_loss

    prompts = [prompt_of(tokenizer, item) for item in generate("coreference", "dev", seed, num_items, **_CONTEXT)]
    rng = for_component(seed, "gate_d")
    later = [int(rng.integers(1, len(prompt.chunks))) for prompt in prompts]
    first = text_loss(model, prompts, [0] * len(prompts), alone=True)
    alone = text_loss(model, prompts, later, alone=True)
    in_place = text_loss(model, prompts, later, alone=False)
    return {
        "passed": alone <= LONE_LOSS_AT_MOST * first,
        "first_chunk_loss": first,
        "later_chunk_alone_loss": alone,
        "later_chunk_in_place_loss": in_place,
        "at_most_times_first": LONE_LOSS_AT_MOST,
        "unit": "nats per token",
    }


def scores(model: Any, tokenizer: Any, num_items: int, seed: int) -> dict[str, Any]:
    """Exact-match accuracy of full prefill per family, split and context length; and per variant at the default length.

    The two longest contexts are measured on a quarter of the items: they cost most.
    """
    from common.models.gates_scoring import answered_right, prompt_of, rouge_l

    table: dict[str, Any] = {}
    for family in FAMILIES:
        table[family] = {}
        for num_chunks in (2, 6, 12, 24, 40):
            for split in ("dev", "test"):
                count = num_items if num_chunks <= 12 else -(-num_items // 4)
                items = list(generate(family, split, seed, count, num_chunks=num_chunks, chunk_sentences=5))
                prompts = [prompt_of(tokenizer, item) for item in items]
                right = answered_right(model, prompts)
                tokens = float(np.mean([len(prompt.context) for prompt in prompts]))
                row: dict[str, Any] = {
                    "accuracy": round(_share(right), 3),
                    "items": count,
                    "mean_context_tokens": round(tokens),
                }
                if items[0].metric == "rouge_l" and num_chunks <= 6:
                    row["rouge_l"] = round(rouge_l(model, tokenizer, items), 3)
                if num_chunks == 6 and split == "test":
                    by_variant: dict[str, list[bool]] = {}
                    for item, ok in zip(items, right, strict=True):
                        by_variant.setdefault(item.item_id.split("/")[-2], []).append(ok)
                    row["variants"] = {name: round(_share(oks), 3) for name, oks in sorted(by_variant.items())}
                table[family][f"{split}_{num_chunks}_chunks"] = row
    return {"num_items": num_items, "seed": seed, "families": table}


def parts(model: Any, tokenizer: Any, num_items: int, seed: int) -> dict[str, Any]:
    """A reader of one chunk: accuracy where the chunk holds the whole answer, and where it does not ("unknown" is right)."""
    from common.models.gates_scoring import answered_right, prompt_of
    from common.models.training_data import asked_of_a_part

    rng = for_component(seed, "parts")
    table: dict[str, Any] = {}
    for family in ("single_fact", "coreference", "multi_hop", "comparison", "quarterly_figures", "who_said_what"):
        prompts: dict[str, list[Any]] = {"stated": [], "unknown": []}
        for one in annotate(family, "test", seed, num_items, **_CONTEXT):
            evidence = one.item.evidence
            others = [i for i in range(len(one.chunks)) if i not in evidence]
            shown = [int(rng.choice(evidence))] + ([int(rng.choice(others))] if others else [])
            for index in shown:
                facts = read([one.chunks[index]])
                known = {(fact.subject, fact.attribute, fact.detail): fact.value for fact in facts}
                asked = asked_of_a_part(one.question, known)
                if asked is not None:
                    item = dataclasses.replace(
                        one.item, chunks=(one.item.chunks[index],), answers=(asked.answer,), evidence=()
                    )
                    kind = "unknown" if asked.family == "unanswerable" else "stated"
                    prompts[kind].append(prompt_of(tokenizer, item))
        table[family] = {
            kind: {"accuracy": round(_share(answered_right(model, rows)), 3), "items": len(rows)}
            for kind, rows in prompts.items()
        }
    return {"seed": seed, "families": table}


GATES = {"a": gate_a, "b": gate_b, "c": gate_c, "d": gate_d}


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    import torch

    from common.models.train import parse_options

    options: Options = parse_options(arguments, Options)
    measures: dict[str, Any] = {**GATES, "scores": scores, "parts": parts}
    wanted = list(measures) if options.gate == "all" else [options.gate]
    if options.gate not in ("all", *measures):
        raise ConfigError(f"gate={options.gate!r} is not a gate. Choose one of all, {', '.join(measures)}.")
    torch.set_num_threads(options.threads)
    model, tokenizer = load_bundled(options.size, options.path)
    results: dict[str, Any] = {}
    folder = Path(options.path) if options.path else BUNDLED / options.size
    for name in wanted:
        count = options.score_items if name == "scores" else options.num_items
        results[name] = measures[name](model, tokenizer, count, options.seed)
        print(json.dumps({name: results[name]}), flush=True)
        if options.write:
            stored = folder / "gates.json"
            known = json.loads(stored.read_text()) if stored.exists() else {}
            stored.write_text(json.dumps(known | {name: results[name]}, indent=1) + "\n")
    failed = [name for name in results if name in GATES and not results[name]["passed"]]
    print(f"gates failed: {', '.join(failed)}" if failed else "no gate failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ConfigError, DataUnavailable) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
