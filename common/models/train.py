"""Train one of the bundled language models.

    python -m common.models.train size=small out=runs/small
    python -m common.models.train size=small out=runs/small resume=true

Options: size=tiny|small|base, out=FOLDER, seed=0, device=auto|cpu|cuda, threads=1, resume=false, max_seconds=0 (0: no limit),
start_from=FOLDER (a trained smaller model to grow from; the sizes that need one say so), first_stage=NAME (with start_from: go on
training those weights from this stage), save_every=100.

    random sequences, said again and again     until copying heads have formed
    short texts, everything by name            until single facts are found
    longer texts, references, disorder         until references across chunks are followed
    full mix                                   longer contexts, learning rate falls to zero
    broad, cool, instructed                    once more from full rate: references, lone chunks, long contexts, instructions
    reworded, settled                          and again: many wordings, loose words dropped and added, hops, comparisons, longer
    further, finished                          (base) and again: fewer loose words, more references

Each stage ends when its goal is met or its steps are used up. The folder then holds the model as `save_pretrained` writes it,
its tokenizer, `training_log.jsonl` (a line every 25 steps), `training_curves.png`, and `training.json` (settings, wall time,
machine, goals met).
Same seed, same thread count, same machine: same weights.
"""

import contextlib
import dataclasses
import difflib
import inspect
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ConfigError
from common.models.training_data import Batch, Encoder, Mix, make_batch
from common.rng import for_component, seed_for

# B rows, T tokens, H heads, D head dim

_WINDOW = 25
# Number of the first step when training starts from stored weights at a later stage: data differ from those of earlier steps.
_FIRST_STEP_OF_A_LATER_STAGE = 100_000

# Always this one: training a tokenizer anew gives the same words other ids, and a resumed or grown model would not fit it.
BUNDLED_TOKENIZER = Path(__file__).parent / "bundled" / "small"

_DOCUMENTS = {
    "people": 4.0,
    "chains": 2.0,
    "companies": 2.0,
    "products": 2.0,
    "quarters": 2.0,
    "meeting": 2.0,
    "stock": 1.0,
    "register": 2.0,
    "chat": 0.6,
}
# Heavier where the first training was weak.
_FAMILIES_AGAIN = {
    "single_fact": 3.0,
    "coreference": 12.0,
    "multi_hop": 3.5,
    "comparison": 2.0,
    "quarterly_figures": 2.5,
    "who_said_what": 2.5,
    "query_summary": 1.0,
    "arithmetic": 1.5,
    "line_retrieval": 2.0,
    "topic_retrieval": 1.0,
    "unanswerable": 0.7,
}
_FAMILIES = {
    "single_fact": 4.0,
    "coreference": 4.0,
    "multi_hop": 1.5,
    "comparison": 1.0,
    "quarterly_figures": 2.0,
    "who_said_what": 2.0,
    "query_summary": 0.7,
    "arithmetic": 1.0,
    "line_retrieval": 2.0,
    "topic_retrieval": 1.0,
    "unanswerable": 0.7,
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the curriculum.

    Attributes:
        name: shown in the log.
        mix: what the batches hold.
        max_steps: the stage ends at the latest after so many steps.
        batch_tokens: tokens per step, padding included.
        goal: (family, accuracy): the stage ends when the mean over a window of 25 steps reaches it; None: run all steps.
        rate: learning rate of the matrices at the stage's start, relative to the shape's; `final_rate` at its end (linear).
        layers: how many layers the model has in this stage, 0 for all; it grows when a stage wants more (`growth.py`). Copying
            and binding are found as fast, per step, by four layers as by eight, and a step costs half.
        text_rate: share of the context's positions that enter the language-model loss, which weighs `text_weight`.
        is_fresh: the optimizers forget what came before; with the first steps' warm-up, the same as going on from stored weights.
    """

    name: str
    mix: Mix
    max_steps: int
    batch_tokens: int = 2048
    goal: tuple[str, float] | None = None
    rate: float = 1.0
    final_rate: float = 1.0
    layers: int = 0
    text_rate: float = 0.15
    text_weight: float = 0.3
    is_fresh: bool = False


_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 30.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """A size of the family: architecture and curriculum.

    Attributes:
        hidden, layers, heads, kv_heads, mlp: Llama architecture; the head dimension is 32.
        rope: RoPE parameters. Half of the channels turn visibly within a sentence (which finding the previous word and the
            latest mention needs), the others hardly turn within 2048 tokens (which finding a word anywhere needs).
        matrix_rate: learning rate of the weight matrices (Muon); embeddings and norms take `vector_rate` (AdamW).
        stages: the curriculum.
        grows_from: name of the size whose trained weights it starts from, or "".
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    stages: tuple[Stage, ...]
    rope: Mapping[str, Any] = dataclasses.field(default_factory=lambda: _ROPE)
    matrix_rate: float = 0.01
    vector_rate: float = 0.001
    grows_from: str = ""


def _mix(
    copy: float,
    num_chunks: tuple[int, int],
    chunk_sentences: tuple[int, int],
    references: float,
    disorder: float,
    **more: Any,
) -> Mix:
    settings: dict[str, Any] = {
        "num_questions": 12,
        "family_weights": _FAMILIES,
        "document_weights": _DOCUMENTS,
        **more,
    }
    return Mix(copy, num_chunks, chunk_sentences, references, disorder, **settings)


def _words_only(asked: float, restated: float, num_pairs: tuple[int, int], num_words: int, gap: int = 0) -> Mix:
    sizes: dict[str, Any] = {"num_pairs": num_pairs, "num_words": num_words, "gap": (0, gap)}
    return _mix(0.0, (1, 1), (2, 3), 0.0, 0.0, num_questions=8, pair_rate=asked, restate_rate=restated, **sizes)


def _again(broad: int, cool: int, instructed: int) -> tuple[Stage, ...]:
    """Training goes on, at full rate and then down to zero, on a mix that weighs what was weak; at last with instructions."""
    mix = _mix(
        0.01,
        (1, 9),
        (1, 5),
        0.7,
        0.2,
        roll_rate=0.03,
        num_pairs=(4, 24),
        family_weights=_FAMILIES_AGAIN,
        is_distinct=True,
        lone_rate=0.12,
        long_rate=0.12,
        absent_rate=0.2,
        num_questions=10,
    )
    told = dataclasses.replace(mix, instruction_rate=0.5)
    return (
        Stage("broad", mix, broad, 4096, is_fresh=True),
        Stage("cool", mix, cool, 4096, final_rate=0.0),
        Stage("instructed", told, instructed, 4096, rate=0.25, final_rate=0.0, is_fresh=True),
    )


# More chains, since questions over several hops were weakest.
_DOCUMENTS_REWORDED = _DOCUMENTS | {"chains": 5.0}
_FAMILIES_REWORDED = _FAMILIES_AGAIN | {"multi_hop": 8.0, "unanswerable": 1.5}


def _reworded(at_full_rate: int, settled: int) -> tuple[Stage, ...]:
    """Training goes on with loose words dropped, added and swapped in half of the rows, longer contexts and more hops."""
    mix = _mix(
        0.0,
        (1, 9),
        (1, 5),
        0.7,
        0.2,
        roll_rate=0.02,
        compare_rate=0.08,
        num_pairs=(4, 24),
        family_weights=_FAMILIES_REWORDED,
        document_weights=_DOCUMENTS_REWORDED,
        is_distinct=True,
        lone_rate=0.12,
        long_rate=0.22,
        long_chunks=(9, 40),
        most_sentences=170,
        absent_rate=0.2,
        num_questions=10,
        instruction_rate=0.2,
        noise_rate=0.5,
    )
    return (
        Stage("reworded", mix, at_full_rate, 4096, is_fresh=True),
        Stage("settled", dataclasses.replace(mix, noise_rate=0.3), settled, 4096, final_rate=0.0),
    )


def _further(at_full_rate: int, finished: int) -> tuple[Stage, ...]:
    """Training goes on with fewer loose words and more of the questions whose subject is named elsewhere."""
    mix = dataclasses.replace(
        _reworded(0, 0)[0].mix,
        family_weights=_FAMILIES_REWORDED | {"single_fact": 6.0, "coreference": 16.0, "topic_retrieval": 0.6},
        noise_rate=0.3,
        instruction_rate=0.15,
    )
    return (
        Stage("further", mix, at_full_rate, 4096, is_fresh=True),
        Stage("finished", dataclasses.replace(mix, noise_rate=0.2), finished, 4096, final_rate=0.0),
    )


def _curriculum(long: int, final: int) -> tuple[Stage, ...]:
    # What decides whether the heads that match and copy form at all is the number of different words: with 16 they form
    # within 200 steps and then extend to all words, with 200 from the start nothing has happened after 700. Questions with
    # markers, where both the asked and the stated word must first be fetched from a neighbour, come after plain repetition.
    few: dict[str, Any] = {"layers": 4, "batch_tokens": 1536}
    words = tuple(
        Stage(f"repeat_{count}", _words_only(0.0, 1.0, (size, size), count), 1500, goal=("restated", 0.93), **few)
        for count, size in ((16, 3), (32, 4), (64, 5), (128, 6), (256, 7), (700, 8))
    )
    # The next plateau is "one of the values of that kind". Two steps lead over it: words that stand farther and farther apart,
    # and then texts where only the subject tells the values apart (nothing in ordinary texts punishes the guess enough).
    apart = tuple(
        Stage(f"apart_{gap}_{count}", _words_only(0.4, 0.6, (3, size), count, gap), 600, goal=("restated", 0.93), **few)
        for gap, count, size in ((1, 32, 3), (1, 700, 6), (2, 700, 6), (4, 700, 8))
    )
    one_sentence: dict[str, Any] = {"num_chunks": (1, 1), "chunk_sentences": (2, 3), "gap": (0, 4), "num_questions": 8}
    roll_3 = _mix(
        0.0, references=0.0, disorder=0.0, pair_rate=0.1, restate_rate=0.15, roll_rate=0.7, num_rolls=3, **one_sentence
    )
    roll = _mix(
        0.0,
        references=0.0,
        disorder=0.0,
        pair_rate=0.05,
        restate_rate=0.05,
        roll_rate=0.75,
        num_pairs=(2, 5),
        **one_sentence,
    )
    short = _mix(
        0.01, (1, 1), (2, 5), 0.0, 0.0, num_questions=8, pair_rate=0.03, roll_rate=0.25, num_pairs=(3, 8), gap=(0, 4)
    )
    names = _mix(0.01, (1, 2), (3, 5), 0.2, 0.1, pair_rate=0.02, roll_rate=0.15, num_pairs=(4, 12), gap=(0, 4))
    references = _mix(0.01, (1, 4), (3, 6), 0.5, 0.2, roll_rate=0.08, num_pairs=(4, 16))
    full = _mix(0.01, (1, 8), (3, 6), 0.6, 0.2, roll_rate=0.04, num_pairs=(4, 24))
    return (
        *words,
        *apart,
        Stage("roll_3", roll_3, 600, 1536, ("roll", 0.9), layers=4),
        Stage("roll", roll, 900, 2048, ("roll", 0.94), layers=4),
        Stage("short", short, 900, 2048, ("single_fact", 0.93), layers=4),
        Stage("names", names, 700, 3072, ("single_fact", 0.93), layers=4),
        Stage("references", references, long, 3072, ("coreference", 0.93)),
        Stage("full", full, final, 4096, rate=0.8, final_rate=0.0),
        *_again(900, 450, 100),
        *_reworded(800, 450),
    )


SHAPES: dict[str, Shape] = {
    # For tests: learns to repeat pairs of sixteen words, in seconds.
    "tiny": Shape(
        64, 2, 2, 1, 128, (Stage("repeat_16", _words_only(0.0, 1.0, (2, 2), 16), 600, 1024, ("restated", 0.95)),)
    ),
    "small": Shape(128, 8, 4, 2, 256, _curriculum(1000, 900)),
    # Twice as wide as `small` and as deep: a step costs about twice as much, one of twelve layers three times.
    "base": Shape(256, 8, 8, 2, 640, (*_reworded(2000, 900), *_further(1300, 800)), grows_from="small"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's options; see the module's docstring."""

    size: str = "small"
    out: str = ""
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    resume: bool = False
    max_seconds: float = 0.0
    start_from: str = ""
    first_stage: str = ""
    save_every: int = 100


def parse_options(arguments: list[str], kind: type = Options) -> Any:
    """Read `key=value` arguments into a dataclass of plain fields. `--help` prints them with their defaults and ends the process.

    Raises:
        ConfigError: an unknown key, or a value that its field cannot take.
    """
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if "--help" in arguments or "-h" in arguments:
        print(f"{inspect.getdoc(kind) or ''}\n\nOptions, written as name=value:".lstrip())
        for field in dataclasses.fields(kind):
            default = "required" if field.default is dataclasses.MISSING else f"default {field.default!r}"
            print(f"  {field.name}=  ({default})")
        raise SystemExit(0)
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean {near[0]}=...?" if near else ""
            raise ConfigError(
                f"{argument!r} is not an option.{hint} Options: {', '.join(f'{name}=' for name in fields)}"
            )
        try:
            if fields[key] is bool:
                values[key] = {"true": True, "false": False}[text.lower()]
            else:
                values[key] = fields[key](text)  # type: ignore[operator]
        except (ValueError, KeyError):
            wanted = getattr(fields[key], "__name__", fields[key])
            raise ConfigError(
                f"{key}={text!r} is not a {wanted}{' (true or false)' if wanted == 'bool' else ''}."
            ) from None
    return kind(**values)


def build_model(shape: Shape, vocab_size: int, seed: int, layers: int = 0) -> Any:
    """A fresh model in fp32, of the shape's depth or of `layers` layers.

    The initialisation is wider than the library's default of 0.02: with it a model this narrow computes nearly the same for
    every token, and attention patterns take thousands of steps to leave the uniform.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from common.models.tokenizer import CONTEXT_TOKENS

    layers = layers or shape.layers
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        rope_parameters=dict(shape.rope),
        initializer_range=shape.hidden**-0.5 * 0.9,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "weights") % 2**63)
        model = LlamaForCausalLM(config)
    rng = for_component(seed, "offset")
    with torch.no_grad():
        # Logits of a model so narrow span a few units only, and would take long to grow.
        model.model.norm.weight.fill_(2.0)
        # One direction that all words share: without it (and without biases) no head can look at "the word before, whatever it
        # is", and the step to it takes hundreds of updates. As the head is tied, it moves all logits alike.
        direction = torch.from_numpy(rng.standard_normal(shape.hidden)).float()
        model.model.embed_tokens.weight.add_(
            direction * config.initializer_range * shape.hidden**0.5 / direction.norm()
        )
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_((2 * layers) ** -0.5)
            layer.mlp.down_proj.weight.mul_((2 * layers) ** -0.5)
    return model


_ATTENTION_BLOCK = 64


def _attention_class() -> Any:
    """Causal attention in blocks of queries, as an autograd function of its own (torch is imported only where it is needed).

    On a CPU the backward pass of sdpa in bf16 is several times slower than these batched products, and a product over all pairs
    computes the half above the diagonal for nothing.
    """
    import torch

    class BlockCausal(torch.autograd.Function):
        # N rows x KV heads, G query heads per KV head, T tokens, D head dim, B queries of a block, S = G x B
        @staticmethod
        def forward(context: Any, query_NGTD: Any, key_NTD: Any, value_NTD: Any) -> Any:
            N, G, T, D = query_NGTD.shape
            out_NGTD = torch.empty_like(query_NGTD)
            weights = []
            upper = torch.full((_ATTENTION_BLOCK, _ATTENTION_BLOCK), float("-inf"), device=query_NGTD.device).triu(1)
            upper = upper.to(query_NGTD.dtype)
            for start in range(0, T, _ATTENTION_BLOCK):
                stop = min(start + _ATTENTION_BLOCK, T)
                query_NSD = query_NGTD[:, :, start:stop].reshape(N, -1, D)
                scores_NST = query_NSD @ key_NTD[:, :stop].transpose(1, 2)
                size = stop - start
                scores_NST.view(N, G, size, stop)[..., start:].add_(upper[:size, :size])
                weight_NST = torch.softmax(scores_NST, -1)
                out_NGTD[:, :, start:stop] = (weight_NST @ value_NTD[:, :stop]).view(N, G, size, D)
                weights.append(weight_NST)
            context.save_for_backward(query_NGTD, key_NTD, value_NTD, *weights)
            return out_NGTD

        @staticmethod
        def backward(context: Any, *gradients: Any) -> Any:
            (grad_NGTD,) = gradients
            query_NGTD, key_NTD, value_NTD, *weights = context.saved_tensors
            N, G, T, D = query_NGTD.shape
            grad_query = torch.empty_like(query_NGTD)
            # Sums over blocks are kept in fp32.
            grad_key = torch.zeros(key_NTD.shape, dtype=torch.float32, device=key_NTD.device)
            grad_value = torch.zeros_like(grad_key)
            for weight_NST, start in zip(weights, range(0, T, _ATTENTION_BLOCK), strict=True):
                stop = min(start + _ATTENTION_BLOCK, T)
                grad_NSD = grad_NGTD[:, :, start:stop].reshape(N, -1, D)
                query_NSD = query_NGTD[:, :, start:stop].reshape(N, -1, D)
                grad_value[:, :stop] += weight_NST.transpose(1, 2) @ grad_NSD
                grad_weight = grad_NSD @ value_NTD[:, :stop].transpose(1, 2)
                grad_scores = torch._softmax_backward_data(grad_weight, weight_NST, -1, weight_NST.dtype)
                grad_query[:, :, start:stop] = (grad_scores @ key_NTD[:, :stop]).view(N, G, stop - start, D)
                grad_key[:, :stop] += grad_scores.transpose(1, 2) @ query_NSD
            return grad_query, grad_key.to(key_NTD.dtype), grad_value.to(value_NTD.dtype)

    return BlockCausal


_ATTENTION: list[Any] = []


def _batched_attention(
    module: Any, query_BHTD: Any, key_BHTD: Any, value_BHTD: Any, attention_mask: Any, scaling: float, **_: Any
) -> tuple[Any, None]:
    """transformers' attention interface over `_attention_class`: causal, no padding mask."""
    if not _ATTENTION:
        _ATTENTION.append(_attention_class())
    B, H, T, D = query_BHTD.shape
    num_kv = key_BHTD.shape[1]
    # The query heads of a group share their keys: they are stacked along the query axis instead of copying the keys.
    query = (query_BHTD * scaling).reshape(B * num_kv, H // num_kv, T, D)
    key = key_BHTD.reshape(B * num_kv, T, D)
    value = value_BHTD.reshape(B * num_kv, T, D)
    mixed = _ATTENTION[0].apply(query, key, value)
    return mixed.reshape(B, H, T, D).transpose(1, 2), None


class Trainer:
    """Master weights in fp32, computing in bf16; Muon for the matrices of the layers, AdamW for embeddings and norms.

    Args:
        shape: what to train.
        model: the fp32 model; trained in place.
        encoder: the tokenizer.
        seed: of the data.
        device: "cpu" or "cuda...".
    """

    def __init__(self, shape: Shape, model: Any, encoder: Encoder, seed: int, device: str) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS.register("ninefold_batched", _batched_attention)
        self.shape, self.encoder, self.seed, self.device = shape, encoder, seed, device
        self.base_rates = (shape.matrix_rate, shape.vector_rate)
        self.step = 0
        self.stage = 0
        self.stage_step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.goals: list[dict[str, Any]] = []
        self.adopt(model)

    def adopt(self, model: Any) -> None:
        """Train this model from now on, with fresh optimizer states."""
        import copy

        import torch

        self.master = model.to(self.device)
        self.worker = copy.deepcopy(model).to(torch.bfloat16)
        # The cast rounds the RoPE frequencies as well; rounded ones are off by a radian after a few hundred positions.
        self.worker.model.rotary_emb.inv_freq = self.master.model.rotary_emb.inv_freq.clone()
        if self.device == "cpu":
            self.worker.config._attn_implementation = "ninefold_batched"
        matrices = [p for p in self.master.model.layers.parameters() if p.ndim == 2]
        known = {id(p) for p in matrices}
        vectors = [p for p in self.master.parameters() if id(p) not in known]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=self.base_rates[0], momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(vectors, lr=self.base_rates[1], betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def enter_stage(self) -> None:
        """Grow the model if the current stage wants more layers than it has."""
        from common.models.growth import grow

        stage = self.shape.stages[self.stage]
        if stage.is_fresh and self.stage_step == 0:
            self.adopt(self.master)
        wanted = stage.layers or self.shape.layers
        config = self.master.config
        if config.num_hidden_layers < wanted:
            fresh = build_model(self.shape, config.vocab_size, self.seed + wanted, wanted)
            self.adopt(grow(self.master.cpu(), fresh))

    def train_step(self, stage: Stage) -> tuple[dict[str, float], dict[str, list[float]]]:
        """One step; returns losses, and for each family of the batch whether each answer was right (teacher-forced)."""
        import torch

        batch = make_batch(
            self.encoder, for_component(self.seed, "train", self.step), stage.mix, stage.batch_tokens, stage.text_rate
        )
        ids_BT = torch.from_numpy(batch.ids_BT).to(self.device)
        answer_BT = torch.from_numpy(batch.answer_BT).to(self.device)
        text_BT = torch.from_numpy(batch.text_BT).to(self.device)
        hidden_BTd = self.worker.model(ids_BT, use_cache=False).last_hidden_state
        # Logits only where something is supervised: the vocabulary is the widest matrix of the model.
        chosen_BT = ((answer_BT + text_BT) > 0)[:, :-1]
        logits_NV = self.worker.lm_head(hidden_BTd[:, :-1][chosen_BT]).float()
        target_N = ids_BT[:, 1:][chosen_BT]
        is_answer_N = answer_BT[:, :-1][chosen_BT]
        loss_N = torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none")
        answer_loss = (loss_N * is_answer_N).sum() / is_answer_N.sum()
        text_loss = (loss_N * (1 - is_answer_N)).sum() / (1 - is_answer_N).sum().clamp(min=1.0)
        (answer_loss + stage.text_weight * text_loss).backward()
        for master, worker in zip(self.master.parameters(), self.worker.parameters(), strict=True):
            master.grad = worker.grad.float()
            worker.grad = None
        torch.nn.utils.clip_grad_norm_(self.master.parameters(), 1.0)
        progress = self.stage_step / stage.max_steps
        rate = stage.rate + (stage.final_rate - stage.rate) * progress
        rate *= min(1.0, (self.step + 1) / 50, (self.stage_step + 10) / 30)
        for optimizer, base in zip(self.optimizers, self.base_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * rate
            optimizer.step()
        with torch.no_grad():
            for master, worker in zip(self.master.parameters(), self.worker.parameters(), strict=True):
                worker.copy_(master)
        right_BT = torch.zeros(ids_BT.shape)
        right_BT[:, :-1][chosen_BT.cpu()] = (logits_NV.argmax(-1) == target_N).float().cpu()
        self.step += 1
        self.stage_step += 1
        self.tokens += batch.ids_BT.size
        losses = {"answer_loss": float(answer_loss.detach()), "text_loss": float(text_loss.detach())}
        return losses, _score(batch, right_BT.numpy())

    # ---- saving and resuming: one file, written under another name and renamed

    def save(self, path: Path) -> None:
        """Write everything that a later `load` needs to go on as if nothing had happened."""
        from safetensors.torch import save_file

        tensors = {f"weights/{name}": p.detach().cpu().contiguous() for name, p in self.master.named_parameters()}
        for i, optimizer in enumerate(self.optimizers):
            for j, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer/{i}/{j}/{key}"] = value.detach().cpu().clone().contiguous()
        counters = {
            "step": self.step,
            "stage": self.stage,
            "stage_step": self.stage_step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "goals": self.goals,
            "layers": self.master.config.num_hidden_layers,
        }
        temporary = path.with_suffix(".tmp")
        save_file(tensors, str(temporary), metadata={"counters": json.dumps(counters)})
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Continue from a file that `save` wrote.

        Raises:
            ConfigError: the file does not fit this size of model.
        """
        import torch
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as stored:
            counters = json.loads(stored.metadata()["counters"])
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a mapping)
        if counters["layers"] != self.master.config.num_hidden_layers:
            self.adopt(build_model(self.shape, self.master.config.vocab_size, self.seed, counters["layers"]))
        with torch.no_grad():
            for name, p in self.master.named_parameters():
                value = tensors.get(f"weights/{name}")
                if value is None or value.shape != p.shape:
                    raise ConfigError(f"{path} does not hold a model of this size; give another out= or resume=false.")
                p.copy_(value)
            for master, worker in zip(self.master.parameters(), self.worker.parameters(), strict=True):
                worker.copy_(master)
        for i, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Any]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer/{i}/"):
                    _, _, j, field = key.split("/")
                    state.setdefault(int(j), {})[field] = value
            full = optimizer.state_dict()
            full["state"] = state
            optimizer.load_state_dict(full)
        self.step, self.stage, self.stage_step = counters["step"], counters["stage"], counters["stage_step"]
        self.tokens, self.seconds, self.goals = counters["tokens"], counters["seconds"], counters["goals"]


def _score(batch: Batch, right_BT: np.ndarray) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for row, (families, spans) in enumerate(zip(batch.families, batch.spans, strict=True)):
        for family, (start, end) in zip(families, spans, strict=True):
            right = right_BT[row, start:end]
            scores.setdefault(family, []).append(float(right.mean() if family == "copy" else right.min()))
    return scores


def save_model(model: Any, tokenizer: Any, path: Path) -> None:
    """Write model (fp16 weights), tokenizer and generation settings as plain transformers files."""
    import copy

    import torch
    from transformers import GenerationConfig

    stored = copy.deepcopy(model).to("cpu", torch.float16)
    stored.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0, do_sample=False, max_new_tokens=48
    )
    path.mkdir(parents=True, exist_ok=True)
    stored.save_pretrained(path, safe_serialization=True)
    tokenizer.save_pretrained(path)


def train(options: Options) -> Mapping[str, Any]:
    """Run the training described by the options; returns what `training.json` holds.

    Raises:
        ConfigError: an option is not allowed.
    """
    if options.size not in SHAPES:
        raise ConfigError(f"size={options.size!r} is not a size. Choose one of {', '.join(SHAPES)}.")
    if not options.out:
        raise ConfigError("no folder given. Say where to write the model: out=FOLDER.")
    shape = SHAPES[options.size]
    if shape.grows_from and not options.start_from:
        raise ConfigError(
            f"size={options.size} grows from a trained {shape.grows_from!r} model: give start_from=FOLDER of one."
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(options.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    if options.start_from:
        from common.models.growth import grow

        tokenizer = AutoTokenizer.from_pretrained(options.start_from)
        model = AutoModelForCausalLM.from_pretrained(options.start_from, dtype=torch.float32)
        if shape.grows_from and model.config.hidden_size < shape.hidden:
            model = grow(model, build_model(shape, model.config.vocab_size, options.seed))
    else:
        tokenizer = AutoTokenizer.from_pretrained(BUNDLED_TOKENIZER)
        model = build_model(shape, -(-len(tokenizer) // 64) * 64, options.seed, shape.stages[0].layers)
    encoder = Encoder(tokenizer)
    trainer = Trainer(shape, model, encoder, options.seed, device)
    if options.first_stage:
        names = [stage.name for stage in shape.stages]
        if options.first_stage not in names or not options.start_from:
            raise ConfigError(
                f"first_stage={options.first_stage!r} needs start_from=FOLDER and one of the stages {', '.join(names)}."
            )
        trainer.stage = names.index(options.first_stage)
        # A stream of data of its own: the steps before this stage are not counted.
        trainer.step = _FIRST_STEP_OF_A_LATER_STAGE
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "training_state.safetensors"
    if options.resume and checkpoint.exists():
        trainer.load(checkpoint)
        print(f"resumed at step {trainer.step}", flush=True)
    log_path = out / "training_log.jsonl"
    kept = []
    if options.resume and log_path.exists():
        kept = [line for line in log_path.read_text().splitlines() if json.loads(line)["step"] <= trainer.step]
    elif options.first_stage:
        kept = _stored_log(Path(options.start_from))
    log_path.write_text("".join(line + "\n" for line in kept))
    start_s, seconds_before = time.monotonic(), trainer.seconds
    with log_path.open("a") as log, contextlib.suppress(KeyboardInterrupt):
        _run_stages(trainer, options, log, start_s, seconds_before, checkpoint, tokenizer)
    trainer.save(checkpoint)
    save_model(trainer.master, tokenizer, out)
    report = {
        "options": dataclasses.asdict(options) | {"device": device},
        "shape": {key: value for key, value in dataclasses.asdict(shape).items() if key != "stages"},
        "stages": [dataclasses.asdict(stage) for stage in shape.stages],
        "parameters": sum(p.numel() for p in trainer.master.parameters()),
        "steps": steps_done(trainer.step),
        "tokens": trainer.tokens,
        "wall_s": round(trainer.seconds, 1),
        "goals": trainer.goals,
        "machine": {"processor": _processor(), "python": platform.python_version(), "torch": torch.__version__},
        "before": _runs_before(options),
    }
    (out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    draw_curves(out)
    return report


def _stored_log(folder: Path) -> list[str]:
    path = folder / "training_log.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def _runs_before(options: Options) -> list[dict[str, Any]]:
    """The records of the runs that made the weights this one started from, oldest first."""
    path = Path(options.start_from) / "training.json"
    if not options.start_from or not path.exists():
        return []
    last = json.loads(path.read_text())
    return [*last.pop("before", []), last]


def _run_stages(
    trainer: Trainer,
    options: Options,
    log: Any,
    start_s: float,
    seconds_before: float,
    checkpoint: Path,
    tokenizer: Any,
) -> None:
    stages = trainer.shape.stages
    while trainer.stage < len(stages):
        stage = stages[trainer.stage]
        trainer.enter_stage()
        window: dict[str, list[float]] = {}
        losses: dict[str, list[float]] = {}
        met = False
        while trainer.stage_step < stage.max_steps and not met:
            step_losses, scores = trainer.train_step(stage)
            trainer.seconds = seconds_before + time.monotonic() - start_s
            for key, value in step_losses.items():
                losses.setdefault(key, []).append(value)
            for family, values in scores.items():
                window.setdefault(family, []).extend(values)
            if trainer.step % _WINDOW == 0:
                accuracy = {family: round(float(np.mean(values)), 3) for family, values in sorted(window.items())}
                means = {key: round(float(np.mean(values)), 4) for key, values in losses.items()}
                _report(trainer, stage, means, accuracy, log)
                met = stage.goal is not None and accuracy.get(stage.goal[0], 0.0) >= stage.goal[1]
                window, losses = {}, {}
            if trainer.step % options.save_every == 0:
                trainer.save(checkpoint)
            if options.max_seconds and trainer.seconds > options.max_seconds:
                return
        trainer.goals.append(
            {"stage": stage.name, "steps": trainer.stage_step, "goal": stage.goal, "met": met or stage.goal is None}
        )
        trainer.stage += 1
        trainer.stage_step = 0
        save_model(trainer.master, tokenizer, checkpoint.parent)


def steps_done(step: int) -> int:
    """How many steps a run has made that stands at this step: one that began at a later stage counts from an offset."""
    return step - _FIRST_STEP_OF_A_LATER_STAGE if step >= _FIRST_STEP_OF_A_LATER_STAGE else step


def _report(trainer: Trainer, stage: Stage, losses: dict[str, float], accuracy: dict[str, float], log: Any) -> None:
    row = {
        "step": trainer.step,
        "stage": stage.name,
        "seconds": round(trainer.seconds, 1),
        "tokens": trainer.tokens,
        **losses,
        "accuracy": accuracy,
    }
    log.write(json.dumps(row) + "\n")
    log.flush()
    left = stage.max_steps - trainer.stage_step
    eta_s = left * trainer.seconds / max(1, steps_done(trainer.step))
    shown = " ".join(f"{family}={value:.2f}" for family, value in accuracy.items())
    print(
        f"{stage.name} {trainer.stage_step}/{stage.max_steps} (at most {math.ceil(eta_s / 60)} min more) "
        f"loss {losses['answer_loss']:.3f} text {losses['text_loss']:.2f} {shown}",
        flush=True,
    )


def draw_curves(folder: Path) -> None:
    """Loss and accuracy over the tokens seen, from `training_log.jsonl`, as `training_curves.png` beside it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    if not rows:  # stopped before the first line was due
        return
    # A run that goes on from stored weights counts its tokens from zero.
    offset, last = 0, 0
    for row in rows:
        offset, last = offset + (last if row["tokens"] < last else 0), row["tokens"]
        row["tokens"] += offset
    families = sorted({family for row in rows for family in row["accuracy"]})
    columns = 4
    figure, axes = plt.subplots(
        -(-(len(families) + 1) // columns), columns, figsize=(12, 8), layout="constrained", sharex=True
    )
    panels = list(axes.flat)
    for key, label in (("answer_loss", "answers"), ("text_loss", "context (sampled)")):
        points = [(row["tokens"] / 1e6, row[key]) for row in rows if row[key] > 0.0]
        if points:
            panels[0].plot(*zip(*points, strict=True), label=label, linewidth=0.8)
    panels[0].set_title("loss, nats per token", fontsize=9)
    panels[0].legend(fontsize=7)
    for panel, family in zip(panels[1:], families, strict=False):
        points = [(row["tokens"] / 1e6, row["accuracy"][family]) for row in rows if family in row["accuracy"]]
        tokens, right = (np.array(values) for values in zip(*points, strict=True))
        panel.plot(tokens, right, color="C7", linewidth=0.5, alpha=0.6)
        # Mean over the last eight lines, 200 steps.
        smooth = [right[max(0, i - 7) : i + 1].mean() for i in range(len(right))]
        panel.plot(tokens, smooth, color="C0", linewidth=1.2)
        panel.set_title(family, fontsize=9)
        panel.set_ylim(0, 1)
    for panel in panels[len(families) + 1 :]:
        panel.set_visible(False)
    edges = [row["tokens"] / 1e6 for before, row in itertools.pairwise(rows) if before["stage"] != row["stage"]]
    for panel in panels[: len(families) + 1]:
        panel.grid(alpha=0.3)
        for edge in edges:
            panel.axvline(edge, color="black", linewidth=0.3, alpha=0.4)
    figure.suptitle(
        "training batches: loss, and share of answers right (teacher-forced); vertical lines: a new stage", fontsize=10
    )
    figure.supxlabel("million tokens", fontsize=9)
    figure.savefig(folder / "training_curves.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    try:
        train(parse_options(sys.argv[1:]))
    except ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr)
        sys.exit(2)
