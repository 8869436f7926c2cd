"""Train the serving model: the bundled small model, taught the three calls of a RAG answer.

    python -m ragserve.training out=ragserve/weights/rag_small
    python -m ragserve.training out=ragserve/weights/rag_small resume=true

Options: out=FOLDER, start_from=common/models/bundled/small, steps=1400, batch_tokens=3072, rate=0.3, seed=0,
threads=1, resume=false,
max_seconds=0 (0: no limit; else the learning rate reaches zero within that time, and resume=true can go on), save_every=100.

    one chunk                  answer, or "unknown"; note down what helps with a question, or "unknown"
    several chunks, any order  answer from them, or "unknown" where something is missing
    notes                      answer from the sentences that mappers noted down

Texts, questions and right answers come from `common.data.synthetic`, split `train` (the wordings of `test` are never
seen). What a
mapper should note down follows from the facts behind a question: the sentences that state one of them, or that may
continue a chain
whose middle the question does not name. The loss is taken on answers and notes, and lightly on the text.

The folder holds the model as `save_pretrained` writes it, `training_log.jsonl`, `training.json` (settings, wall
time, scores on unseen
texts of split `dev`), while training also `state.safetensors`.
"""

import dataclasses
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.synthetic import compose
from common.data.synthetic.families import FAMILY_DOCUMENTS, Asker, Question
from common.data.synthetic.scenes import Chunk, Draw, Fact, chunk_text, read
from common.data.synthetic.templates import UNKNOWN
from common.errors import ConfigError, DataUnavailable
from common.models.training_data import Batch, Encoder
from common.rng import for_component
from ragserve.prompts import MAPPER_CUE

# B rows, T tokens, N supervised tokens, V vocabulary

FAMILIES = {
    "single_fact": 3.0,
    "multi_hop": 2.5,
    "comparison": 1.5,
    "quarterly_figures": 2.5,
    "who_said_what": 2.0,
    "query_summary": 2.0,
}
"""Families asked about, with their weights."""
_CALLS = {"single": 0.2, "mapper": 0.3, "joint": 0.35, "notes": 0.15}
_QUESTIONS_PER_ROW = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's options; see the module's docstring."""

    out: str = ""
    start_from: str = "common/models/bundled/small"
    steps: int = 1400
    batch_tokens: int = 3072
    rate: float = 0.3
    seed: int = 0
    threads: int = 1
    resume: bool = False
    max_seconds: float = 0.0
    save_every: int = 100


# ------------------------------------------------------------------------------------------------------------------- data


def notes(chunk: Chunk, facts_of_chunk: Sequence[Fact], question: Question) -> list[str]:
    """The sentences of one chunk that help with a question, in order: what a perfect mapper would write down.

    Args:
        chunk: the chunk.
        facts_of_chunk: `read([chunk])`.
        question: asked of a larger text; its facts may lie elsewhere.
    """
    wanted = {(fact.subject, fact.attribute, fact.detail) for fact in question.facts}
    # The question names a chain's start only, so that a mapper cannot know which town or company comes next.
    onward = {fact.attribute for fact in question.facts[1:]} if question.family == "multi_hop" else set()
    kept = {
        fact.sentence
        for fact in facts_of_chunk
        if (fact.subject, fact.attribute, fact.detail) in wanted or fact.attribute in onward
    }
    return [chunk[index].text for index in sorted(kept)]


def is_answered_by(question: Question, facts: Sequence[Fact]) -> bool:
    """Whether these facts hold all that the question's answer rests on."""
    known = {(fact.subject, fact.attribute, fact.detail, fact.value) for fact in facts}
    return all((fact.subject, fact.attribute, fact.detail, fact.value) in known for fact in question.facts)


class Texts:
    """Draws contexts with questions of one split."""

    def __init__(self, draw: Draw, split: str) -> None:
        self.draw = draw
        self.split = split
        self.asker = Asker(draw, split)

    def context(self, num_chunks: int) -> tuple[list[Chunk], dict[str, list[Any]]]:
        """Chunks in which everything is named, and the questions that they answer, by family."""
        while True:
            family = self.pick(FAMILIES)
            chunks = compose(
                self.draw,
                self.split,
                FAMILY_DOCUMENTS[family],
                num_chunks,
                self.draw.integer(4, 6),
                reference_rate=0.0,
                num_main=2 if num_chunks >= 4 else 1,
            )
            offered = {name: asks for name, asks in self.asker.all(read(chunks)).items() if asks and name in FAMILIES}
            if offered:
                return chunks, offered

    def pick(self, weights: Mapping[str, float]) -> str:
        """A name, by weight."""
        point = self.draw.uniform() * sum(weights.values())
        for name, weight in weights.items():
            point -= weight
            if point < 0:
                return name
        return name

    def question(self, offered: Mapping[str, list[Any]]) -> Question:
        """One of the questions, families by weight."""
        family = self.pick({name: FAMILIES[name] for name in offered})
        question: Question = self.draw.one(offered[family])()
        return question


def make_row(texts: Texts, call: str) -> tuple[list[str], list[tuple[str, str, str]]]:
    """One context as shown to the model, and (kind, prompt wording, target) of several calls about it."""
    draw = texts.draw
    whole, offered = texts.context(draw.integer(3, 11))
    asked: list[tuple[str, str, str]] = []
    if call in ("single", "mapper"):
        place = draw.integer(0, len(whole))
        shown = [whole[place]]
        facts = read(shown)
        own = {name: asks for name, asks in texts.asker.all(facts).items() if asks and name in FAMILIES}
        for _ in range(_QUESTIONS_PER_ROW):
            question = texts.question(own if own and draw.chance(0.55) else offered)
            if call == "mapper":
                target = " ".join(notes(shown[0], facts, question)) or UNKNOWN
                asked.append(("mapper", f"{MAPPER_CUE} {question.text}", target))
            else:
                is_known = is_answered_by(question, facts)
                asked.append(
                    ("single" if is_known else "absent", question.text, question.answer if is_known else UNKNOWN)
                )
        return [chunk_text(chunk) for chunk in shown], asked
    if call == "notes":
        question = texts.question(offered)
        shown_notes = [" ".join(notes(chunk, read([chunk]), question)) for chunk in draw.some(whole, len(whole))]
        kept = [note for note in shown_notes if note][: draw.integer(2, 9)]
        held = [
            fact for chunk in whole for fact in read([chunk]) if any(chunk[fact.sentence].text in note for note in kept)
        ]
        is_known = is_answered_by(question, held)
        return kept or [UNKNOWN], [("notes", question.text, question.answer if is_known else UNKNOWN)]
    shown = draw.some(whole, draw.integer(2, len(whole) + 1))
    facts = read(shown)
    own = {name: asks for name, asks in texts.asker.all(facts).items() if asks and name in FAMILIES}
    for _ in range(_QUESTIONS_PER_ROW):
        question = texts.question(own if own and draw.chance(0.95) else offered)
        is_known = is_answered_by(question, facts)
        kind = question.family if is_known else "absent"
        asked.append((kind, question.text, question.answer if is_known else UNKNOWN))
    return [chunk_text(chunk) for chunk in shown], asked


def make_batch(
    encoder: Encoder, rng: np.random.Generator, split: str, batch_tokens: int, text_rate: float = 0.1, call: str = ""
) -> Batch:
    """Rows of one kind of call, padded to one length; see `common.models.training_data.Batch`."""
    draw = Draw(rng)
    texts = Texts(draw, split)
    call = call or texts.pick(_CALLS)
    rows: list[list[int]] = []
    spans: list[list[tuple[int, int]]] = []
    families: list[list[str]] = []
    contexts: list[int] = []
    longest = 0
    while True:
        chunks, asked = make_row(texts, call)
        row = [encoder.bos]
        for chunk in chunks:
            row += [*encoder.text(chunk), encoder.sep]
        contexts_tokens = len(row)
        row_spans = []
        for _, wording, target in asked:
            row += [encoder.question, *encoder.text(wording), encoder.answer]
            start = len(row) - 1
            row += [*encoder.text(target), encoder.eos]
            row_spans.append((start, len(row) - 1))
        if rows and max(longest, len(row)) * (len(rows) + 1) > batch_tokens:
            break
        longest = max(longest, len(row))
        rows.append(row)
        spans.append(row_spans)
        families.append([kind for kind, _, _ in asked])
        contexts.append(contexts_tokens)
    ids_BT = np.full((len(rows), longest), encoder.pad, dtype=np.int64)
    answer_BT = np.zeros((len(rows), longest), dtype=np.float32)
    text_BT = np.zeros((len(rows), longest), dtype=np.float32)
    for i, row in enumerate(rows):
        ids_BT[i, : len(row)] = row
        for start, end in spans[i]:
            answer_BT[i, start:end] = 1.0
        text_BT[i, : contexts[i] - 1] = rng.random(contexts[i] - 1) < text_rate
    return Batch(ids_BT, answer_BT, text_BT, families, spans)


# --------------------------------------------------------------------------------------------------------------- training


def _trainer(model: Any, encoder: Encoder, options: Options) -> Any:
    """`common.models.train.Trainer` (bf16 worker, Muon and AdamW) with our batches and one decaying stage."""
    import torch

    from common.models import train as base

    class RagTrainer(base.Trainer):
        def rag_step(self, session_share: float) -> tuple[float, dict[str, list[float]]]:
            batch = make_batch(
                self.encoder, for_component(self.seed, "rag train", self.step), "train", options.batch_tokens
            )
            ids_BT, answer_BT, text_BT = (
                torch.from_numpy(array) for array in (batch.ids_BT, batch.answer_BT, batch.text_BT)
            )
            hidden_BTd = self.worker.model(ids_BT, use_cache=False).last_hidden_state
            chosen_BT = ((answer_BT + text_BT) > 0)[:, :-1]
            logits_NV = self.worker.lm_head(hidden_BTd[:, :-1][chosen_BT]).float()
            target_N = ids_BT[:, 1:][chosen_BT]
            is_answer_N = answer_BT[:, :-1][chosen_BT]
            loss_N = torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none")
            answer_loss = (loss_N * is_answer_N).sum() / is_answer_N.sum()
            text_loss = (loss_N * (1 - is_answer_N)).sum() / (1 - is_answer_N).sum().clamp(min=1.0)
            (answer_loss + 0.2 * text_loss).backward()
            for master, worker in zip(self.master.parameters(), self.worker.parameters(), strict=True):
                master.grad = worker.grad.float()
                worker.grad = None
            torch.nn.utils.clip_grad_norm_(self.master.parameters(), 1.0)
            progress = max(self.step / options.steps, session_share)
            rate = options.rate * min(1.0, (self.step + 1) / 30) * max(0.02, 1 - progress)
            for optimizer, own in zip(self.optimizers, self.base_rates, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = own * rate
                optimizer.step()
            with torch.no_grad():
                for master, worker in zip(self.master.parameters(), self.worker.parameters(), strict=True):
                    worker.copy_(master)
            right_BT = torch.zeros(ids_BT.shape)
            right_BT[:, :-1][chosen_BT] = (logits_NV.argmax(-1) == target_N).float()
            self.step += 1
            self.tokens += batch.ids_BT.size
            return float(answer_loss.detach()), base._score(batch, right_BT.numpy())

    shape = base.Shape(model.config.hidden_size, 0, 0, 0, 0, ())
    return RagTrainer(shape, model, encoder, options.seed, "cpu")


def evaluate(model: Any, encoder: Encoder, split: str, seed: int = 1, batches: int = 6) -> dict[str, float]:
    """Share of right answers (teacher-forced, whole answer) by kind of call, on unseen texts."""
    import torch

    from common.models.train import _score

    found: dict[str, list[float]] = {}
    for call in _CALLS:
        for number in range(batches):
            batch = make_batch(encoder, for_component(seed, "rag eval", split, call, number), split, 4096, 0.0, call)
            with torch.no_grad():
                logits_BTV = model(torch.from_numpy(batch.ids_BT)).logits
            right_BT = np.zeros(batch.ids_BT.shape)
            right_BT[:, :-1] = logits_BTV.argmax(-1).numpy()[:, :-1] == batch.ids_BT[:, 1:]
            for family, values in _score(batch, right_BT).items():
                found.setdefault(f"{call}/{family}", []).extend(values)
    return {name: round(float(np.mean(values)), 3) for name, values in sorted(found.items())}


def train(options: Options) -> Mapping[str, Any]:
    """Train, or go on; returns what `training.json` holds.

    Raises:
        ConfigError: no `out`.
        DataUnavailable: `start_from` holds no model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from common.cache import sha256_of_file
    from common.models.train import save_model

    if not options.out:
        raise ConfigError("no out= given. Say where to save the model: out=FOLDER.")
    start = Path(options.start_from)
    if not (start / "config.json").is_file():
        raise DataUnavailable(f"start_from={options.start_from} holds no model (no config.json).")
    torch.set_num_threads(options.threads)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    encoder = Encoder(tokenizer)
    trainer = _trainer(model, encoder, options)
    state, log_path = folder / "state.safetensors", folder / "training_log.jsonl"
    if options.resume and state.is_file():
        trainer.load(state)
    elif log_path.exists():
        log_path.unlink()
    begin_s, before_s = time.monotonic(), trainer.seconds
    window: dict[str, list[float]] = {}
    losses: list[float] = []
    with log_path.open("a") as log:
        while trainer.step < options.steps:
            elapsed_s = time.monotonic() - begin_s
            loss, scores = trainer.rag_step(elapsed_s / options.max_seconds if options.max_seconds else 0.0)
            losses.append(loss)
            for family, values in scores.items():
                window.setdefault(family, []).extend(values)
            trainer.seconds = before_s + time.monotonic() - begin_s
            if trainer.step % 25 == 0:
                line = {
                    "step": trainer.step,
                    "tokens": trainer.tokens,
                    "seconds": round(trainer.seconds, 1),
                    "answer_loss": round(float(np.mean(losses)), 4),
                    "right": {name: round(float(np.mean(values)), 3) for name, values in sorted(window.items())},
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(json.dumps(line), flush=True)
                window, losses = {}, []
            is_last = trainer.step >= options.steps
            out_of_time = 0 < options.max_seconds < time.monotonic() - begin_s
            if trainer.step % options.save_every == 0 or is_last or out_of_time:
                trainer.save(state)
            if out_of_time:
                break
    save_model(trainer.master, tokenizer, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    facts = {
        "settings": dataclasses.asdict(dataclasses.replace(options, out="", resume=False, max_seconds=0.0)),
        "start_from_sha256": sha256_of_file(start / "model.safetensors"),
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(trainer.seconds),
        "machine": f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}",
        "dev": evaluate(model, encoder, "dev"),
        "test": evaluate(model, encoder, "test"),
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    if trainer.step >= options.steps:
        state.unlink(missing_ok=True)
    return facts


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    from common.models.train import parse_options

    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    print(json.dumps(train(parse_options(arguments, Options)), indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ConfigError, DataUnavailable) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
