"""Answer questions over a folder of texts with blended KV caches, from the command line.

    python -m cacheblend precompute DIR --model MODEL --store STORE     once: cut the texts, compute and store every chunk's KV
    python -m cacheblend ask "QUESTION" --model MODEL --store STORE     retrieve chunks, blend their KV, answer, report

MODEL is a bundled model, a folder as `save_pretrained` writes it, or a hub id. The store holds one checked file per chunk and
an index of the texts; it may be shared by processes and deleted at any time.

Exit status: 0 done; 1 something went wrong; 2 a setting was refused; 130 interrupted (what was computed stays in the store).
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.records import read_text
from common.errors import ConfigError, DataUnavailable, ReproError

if TYPE_CHECKING:
    from cacheblend.api import Request
    from cacheblend.blend import BlendPlan
    from cacheblend.controller import LayerwiseTime
    from cacheblend.generate import BlendedModel
    from cacheblend.pipeline import Timeline
    from cacheblend.store import TieredStore

INDEX = "index.json"
INDEX_FORMAT = 1
PATTERNS = ("*.txt", "*.md", "*.rst")


@dataclasses.dataclass(frozen=True)
class Passage:
    """One chunk of the corpus.

    Attributes:
        file: path of its text, relative to the folder that was given, with that folder's name in front.
        start: character offset in it.
        text, ids: the chunk and its token ids, encoded alone, closing separator included.
    """

    file: str
    start: int
    text: str
    ids: tuple[int, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)  # a damaged entry is told of every time, not once per place
            warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
            command(options)
    except ConfigError as error:
        _say(f"error: {error}")
        return 2
    except ReproError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; what was computed stays in the store")
        return 130
    except BrokenPipeError:  # the reader of our output, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cacheblend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="precompute | ask")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--model", default="small", help="bundled name, folder or hub id (default: %(default)s)")
    shared.add_argument("--revision", help="branch, tag or commit of a hub model")
    shared.add_argument(
        "--dtype", default="float32", help="float32, bfloat16, float16 or float64 (default: %(default)s)"
    )
    shared.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: %(default)s)")
    shared.add_argument("--threads", type=int, help="compute threads (default: torch's own choice)")
    shared.add_argument("--store", type=Path, default=Path("cacheblend-store"), help="default: ./%(default)s")
    shared.add_argument(
        "--limit-gb", type=float, help="most the store may hold, in 1e9 bytes; the least recently used goes"
    )
    shared.add_argument("--system", default="", help="system prompt, the same for all questions")

    precompute = commands.add_parser(
        "precompute", parents=[shared], help="cut texts, compute and store their chunks' KV"
    )
    precompute.add_argument("directory", type=Path, metavar="DIR", help="folder of texts (UTF-8), searched recursively")
    precompute.add_argument("--chunk-tokens", type=int, default=512, help="longest chunk (default: %(default)s)")
    precompute.add_argument(
        "--pattern", action="append", help=f"files to take; repeatable (default: {' '.join(PATTERNS)})"
    )
    precompute.set_defaults(command=_precompute)

    ask = commands.add_parser("ask", parents=[shared], help="answer a question over the stored chunks")
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--top", type=int, default=6, help="chunks to retrieve (default: %(default)s)")
    ask.add_argument("--file", action="append", help="take only chunks of files whose path contains this; repeatable")
    ask.add_argument("--ratio", default="0.15", help="share of tokens to recompute, or 'auto' (default: %(default)s)")
    ask.add_argument("--max-tokens", type=int, default=64, help="longest answer (default: %(default)s)")
    ask.add_argument("--depth", type=int, default=2, help="layers loaded ahead; 0: no pipeline (default: %(default)s)")
    ask.add_argument("--compare", action="store_true", help="also answer by full recompute, and time it")
    ask.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    ask.set_defaults(command=_ask)
    return parser


# -------------------------------------------------------------------------------------------------------------- commands


def _precompute(options: argparse.Namespace) -> None:
    files = _text_files(options.directory, options.pattern or PATTERNS)
    if options.chunk_tokens < 8:
        raise ConfigError(f"--chunk-tokens {options.chunk_tokens} is too short to be of use; give at least 8.")
    root = options.directory.resolve()
    remedy = "Convert it to UTF-8 or leave it out with --pattern."
    texts = {f"{root.name}/{path.relative_to(options.directory).as_posix()}": read_text(path, remedy) for path in files}
    model, store = _open(options, depth=0)
    passages = [passage for name, text in texts.items() for passage in _cut(model, name, text, options.chunk_tokens)]
    if not passages:
        raise ConfigError(f"the {len(files)} files under {options.directory} hold no text.")
    _check_length(model, max(len(passage.ids) for passage in passages))
    begun_s = time.perf_counter()
    computed = computed_tokens = 0
    for passage in _progress(passages, "computing KV"):
        was_missing = model.engine.pieces(_request_of(model, [passage], "?"))[1]
        computed += was_missing
        computed_tokens += was_missing * len(passage.ids)
    spent_s = time.perf_counter() - begun_s
    _write_index(options.store, model, passages)
    assert store.disk is not None
    tokens = sum(len(passage.ids) for passage in passages)
    print(
        f"{len(passages)} chunks ({tokens} tokens) of {len(files)} files: {computed} computed in {spent_s:.1f} s"
        + (f" ({computed_tokens / spent_s:.0f} tokens/s)" if computed else "")
        + f", {len(passages) - computed} were stored already."
    )
    print(f"{options.store}: {len(store.disk)} entries, {_size(store.disk.num_bytes)}.")
    if store.disk.evictions:
        _say(
            f"warning: {store.disk.evictions} entries were evicted to stay within --limit-gb {options.limit_gb:g}; "
            "their chunks will be computed again when they are needed."
        )
    if store.counts.refused:
        _say(f"warning: {store.counts.refused} chunks do not fit into --limit-gb {options.limit_gb:g} at all.")


def _ask(options: argparse.Namespace) -> None:
    from cacheblend.blend import BlendPlan

    if options.top < 1 or options.max_tokens < 1:
        raise ConfigError(f"--top {options.top} and --max-tokens {options.max_tokens} must be at least 1.")
    ratio = None if options.ratio == "auto" else _ratio(options.ratio)
    index = _read_index(options.store)
    model, store = _open(options, depth=options.depth)
    if index["tokenizer"] != model.engine.loaded.tokenizer_fingerprint:
        raise ConfigError(
            f"{options.store} was filled with the tokenizer of {index['model_name']!r}, which is not that of "
            f"{options.model!r}; run precompute with --model {options.model}."
        )
    passages = index["passages"]
    if options.file:
        passages = [passage for passage in passages if any(part in passage.file for part in options.file)]
        if not passages:
            raise ConfigError(f"no stored file's path contains {' or '.join(map(repr, options.file))}.")
    chosen = retrieve(passages, options.question, options.top)
    request = _request_of(model, chosen, options.question)
    _check_length(model, request.num_tokens + options.max_tokens)
    missing, why = _missing(model, store, request)
    reason = ""
    if ratio is None:
        ratio, reason = _pick_ratio(options, model, store, request)
    report = _answer(model, request, BlendPlan(ratio), options)
    report |= {"ratio": ratio, "ratio_reason": reason, "chunks": [f"{p.file}@{p.start}" for p in chosen]}
    report |= {"missed_chunks": max(missing, report["missed_chunks"]), "why_missing": why}
    store.flush()
    if options.compare:
        report["full_recompute"] = _full_recompute(model, request, options)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        _print_report(report)
    if report["missed_chunks"]:
        _say(_what_was_missed(report))


def _answer(
    model: "BlendedModel", request: "Request", plan: "BlendPlan", options: argparse.Namespace
) -> dict[str, Any]:
    """Answer one request; what happened, in JSON types."""
    from cacheblend.store import TieredStore
    from common.models import prompt_format

    engine = model.engine
    assert isinstance(engine.store, TieredStore)
    timeline: Timeline = engine.timeline  # type: ignore[attr-defined]
    begun_s = time.perf_counter()
    timeline.start()
    computed = engine.blend(request, plan)
    ttft_s = time.perf_counter() - begun_s
    decoded = engine.decode(computed, options.max_tokens)
    total_s = time.perf_counter() - begun_s
    report = computed.report
    return {
        "answer": prompt_format.decode_answer(engine.tokenizer, decoded.ids),
        "prompt_tokens": report.prompt_tokens,
        "reused_tokens": report.reused_tokens,
        "recomputed_tokens": report.recomputed_tokens,
        "recomputed_share": report.recomputed_share,
        "rows_per_layer": list(report.rows_per_layer),
        "loaded_bytes": report.loaded_bytes,
        "num_chunks": len(request.chunks),
        "missed_chunks": report.missed_chunks,
        "damaged_chunks": engine.store.counts.corrupt,
        "ttft_s": ttft_s,
        "decode_s": total_s - ttft_s,
        "answer_tokens": len(decoded.ids),
        "phases_s": timeline.by_phase(),
        "loader_s": timeline.by_phase("loader").get("read", 0.0),
    }


def _full_recompute(model: "BlendedModel", request: "Request", options: argparse.Namespace) -> dict[str, Any]:
    from common.models import prompt_format

    engine = model.engine
    begun_s = time.perf_counter()
    computed = engine.compute(engine.ids(request)[len(engine.bos) :])
    ttft_s = time.perf_counter() - begun_s
    decoded = engine.decode(computed, options.max_tokens)
    return {"answer": prompt_format.decode_answer(engine.tokenizer, decoded.ids), "ttft_s": ttft_s}


def _missing(model: "BlendedModel", store: "TieredStore", request: "Request") -> tuple[int, str]:
    """How many of the request's chunks are not in the store, and why the first of them is not."""
    from cacheblend.engine import ChunkKey

    engine = model.engine
    loaded = engine.loaded
    assert store.disk is not None
    keys = [ChunkKey(loaded.fingerprint, loaded.tokenizer_fingerprint, engine.bos, chunk) for chunk in request.chunks]
    missing = [key for key in keys if key not in store.disk]
    return len(missing), store.why_missing(missing[0]) if missing else ""


def _what_was_missed(report: dict[str, Any]) -> str:
    missed, total = report["missed_chunks"], report["num_chunks"]
    why = f": {report['why_missing']}" if report["why_missing"] else ""
    if missed == total:
        what = f"NOTHING WAS REUSED: none of the {total} chunks could be taken from the store"
        return f"warning: {what}, all were computed first{why}."
    return f"warning: {missed} of {total} chunks could not be taken from the store and were computed first{why}."


def _pick_ratio(
    options: argparse.Namespace, model: "BlendedModel", store: "TieredStore", request: "Request"
) -> tuple[float, str]:
    """The controller's choice for this machine and store, from a profile that is measured once and kept in the store."""
    from cacheblend.controller import load_s, pick_ratio
    from common.hardware import DeviceProfile

    model.engine.pieces(request)
    store.flush()
    recompute, read_bytes_per_s = _profile(options, model, store, request)
    kv_bytes = (request.num_tokens - len(request.question)) * model.engine.loaded.kv_bytes_per_token
    loading_s = load_s(kv_bytes, DeviceProfile("store", read_bytes_per_s))
    ratio = pick_ratio(recompute, loading_s)
    return ratio, f"loading takes {loading_s:.3f} s, recomputing 15 % {recompute.seconds(0.15):.3f} s"


def _profile(
    options: argparse.Namespace, model: "BlendedModel", store: "TieredStore", request: "Request"
) -> tuple["LayerwiseTime", float]:
    from cacheblend.blend import BlendPlan
    from cacheblend.controller import LayerwiseTime
    from cacheblend.engine import Engine
    from common.cache import ArtefactCache
    from common.hardware import machine_facts
    from common.timing import measure

    engine = model.engine
    num_layers = engine.transformer.num_layers
    # Times depend on the length; a profile serves all lengths up to the next power of two, scaled.
    bucket = 1 << max(6, (request.num_tokens - 1).bit_length())
    facts = machine_facts()
    description = {
        "model": engine.loaded.fingerprint,
        "tokens": bucket,
        "device": str(engine.transformer.device),
        "threads": options.threads,
        "cpu": facts["cpu_model"],
        "gpu": facts["gpu"],
    }

    def make(folder: Path) -> None:
        _say("measuring this machine once, for --ratio auto ...")
        bench = Engine(engine.loaded)
        bench.precompute(request)
        device = str(engine.transformer.device)
        full = measure(
            lambda: bench.compute(bench.ids(request)[len(bench.bos) :]), warmup=1, repeats=3, device=device
        ).median_s
        ratios = (0.05, 0.15, 0.5)
        blends = [
            measure(functools.partial(bench.blend, request, BlendPlan(r)), warmup=1, repeats=3, device=device).median_s
            for r in ratios
        ]
        assert store.disk is not None
        store.disk.drop_page_cache()
        pieces, _ = engine.pieces(request)
        handles = [piece for piece in pieces.pieces if hasattr(piece, "read_all")]

        def read() -> int:
            return sum(handle.read_all().num_bytes for handle in handles)

        reading = measure(read, warmup=0, repeats=1)
        measured = {
            "prompt_tokens": request.num_tokens,
            "question_share": len(request.question) / request.num_tokens,
            "prefill_s": full,
            "ratios": list(ratios),
            "blend_s": blends,
            "read_bytes_per_s": reading.result / reading.median_s,
        }
        (folder / "profile.json").write_text(json.dumps(measured))

    folder = ArtefactCache(options.store / "profiles").get_or_make("profile", description, make)
    found = json.loads((folder / "profile.json").read_text())
    scale = request.num_tokens / found["prompt_tokens"]
    form = LayerwiseTime(found["prefill_s"] * scale, num_layers, found["question_share"])
    return form.fit(found["ratios"], [seconds * scale for seconds in found["blend_s"]]), found["read_bytes_per_s"]


# ----------------------------------------------------------------------------------------------------- model and requests


def _open(options: argparse.Namespace, depth: int) -> tuple["BlendedModel", "TieredStore"]:
    """The model, with an engine that loads from the store on a second thread, and the store."""
    from cacheblend.generate import BlendedModel
    from cacheblend.pipeline import PipelinedEngine, Timeline
    from cacheblend.store import DiskTier, TieredStore

    if options.limit_gb is not None and not 0 < options.limit_gb < math.inf:
        raise ConfigError(f"--limit-gb {options.limit_gb} must be > 0 and finite; leave it out for no limit.")
    if options.threads is not None:
        import torch

        if options.threads < 1:
            raise ConfigError(f"--threads {options.threads} must be at least 1.")
        torch.set_num_threads(options.threads)
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()
    limit_bytes = None if options.limit_gb is None else int(options.limit_gb * 1e9)
    try:
        disk = DiskTier(options.store, limit_bytes)
    except OSError as error:
        raise ConfigError(f"--store {options.store} cannot be used as a folder: {error.strerror}.") from error
    # While asking, new chunks are written after the answer; while precomputing, at once.
    store = TieredStore(disk=disk, reads_layers=True, defers_writes=options.command is _ask)
    model = BlendedModel.from_pretrained(
        options.model,
        dtype=options.dtype,
        device=options.device,
        revision=options.revision,
        store=store,
        system=options.system,
    )
    clock = Timeline(time.perf_counter, _waiter(model.engine.transformer.device))
    model.engine = PipelinedEngine(model.engine.loaded, store, depth=None if depth < 0 else depth, timeline=clock)
    return model, store


def _waiter(device: Any) -> Callable[[], None]:
    if device.type != "cuda":
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)


def _request_of(model: "BlendedModel", passages: Sequence[Passage], question: str) -> "Request":
    """The prompt, with the passages' ids exactly as they were stored."""
    request = model.request([], question)
    return dataclasses.replace(request, chunks=tuple(passage.ids for passage in passages))


def _check_length(model: "BlendedModel", num_tokens: int) -> None:
    limit = model.engine.transformer.max_positions
    if num_tokens + 1 > limit:
        raise ConfigError(
            f"{num_tokens} tokens are more than the model's {limit} positions; use fewer or shorter chunks "
            "(ask --top, precompute --chunk-tokens)."
        )


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0 <= ratio <= 1:
        raise ConfigError(f"--ratio {text} is neither a number from 0 to 1 nor 'auto'.")
    return ratio


# ------------------------------------------------------------------------------------------------------- texts and index


def _text_files(directory: Path, patterns: Iterable[str]) -> list[Path]:
    if not directory.is_dir():
        raise ConfigError(f"{directory} is not a folder; give the folder that holds the texts.")
    found = sorted({path for pattern in patterns for path in directory.rglob(pattern) if path.is_file()})
    if not found:
        raise ConfigError(
            f"{directory} holds no file that matches {' or '.join(patterns)}; choose others with --pattern."
        )
    return found


def _cut(model: "BlendedModel", name: str, text: str, chunk_tokens: int) -> list[Passage]:
    """A text as passages of at most `chunk_tokens` tokens, separator included."""
    from common.data.chunking import chunk_text
    from common.models import prompt_format

    tokenizer = model.engine.tokenizer

    def encode(piece: str) -> list[int]:
        return list(tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True))

    # What `encode_chunk` adds: a separator, and what a leading space can make of the first word.
    room = chunk_tokens - len(prompt_format.encode_chunk(tokenizer, "")) - 2
    return [
        Passage(name, chunk.start, chunk.text.strip(), tuple(prompt_format.encode_chunk(tokenizer, chunk.text)))
        for chunk in chunk_text(text, encode, room, boundary="sentence")
        if chunk.text.strip()
    ]


def _write_index(store: Path, model: "BlendedModel", passages: Sequence[Passage]) -> None:
    """Add passages to the store's index; those of the same files replace what was there."""
    from filelock import FileLock

    from common.cache import atomic_file

    with FileLock(store / ".index.lock", mode=0o666):
        kept: list[dict[str, Any]] = []
        tokenizer = model.engine.loaded.tokenizer_fingerprint
        if (store / INDEX).exists():
            former = _read_index(store)
            if former["tokenizer"] == tokenizer:
                files = {passage.file for passage in passages}
                kept = [entry for entry in former["chunks"] if entry["file"] not in files]
        index = {
            "format": INDEX_FORMAT,
            "model_name": model.engine.loaded.spec.name,
            "tokenizer": tokenizer,
            "chunks": [*kept, *(dataclasses.asdict(passage) for passage in passages)],
        }
        with atomic_file(store / INDEX) as temporary:
            temporary.write_text(json.dumps(index))


def _read_index(store: Path) -> dict[str, Any]:
    """What `_write_index` wrote, and its chunks as `passages`."""
    try:
        index = json.loads((store / INDEX).read_text())
        if index["format"] != INDEX_FORMAT or not isinstance(index["chunks"], list):
            raise ValueError("unknown format")
        if not isinstance(index["tokenizer"], str) or not isinstance(index["model_name"], str):
            raise ValueError("it does not name its model")
        passages = [
            Passage(str(entry["file"]), int(entry["start"]), str(entry["text"]), tuple(map(int, entry["ids"])))
            for entry in index["chunks"]
        ]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{store} holds no {INDEX}; run `python -m cacheblend precompute DIR --store {store}` first."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataUnavailable(f"{store / INDEX} is damaged ({error}); delete it and run precompute again.") from error
    return {**index, "passages": passages}


def retrieve(passages: Sequence[Passage], question: str, top: int) -> list[Passage]:
    """The `top` passages that share the rarest words with the question (BM25), in the order of the corpus."""
    words = [Counter(re.findall(r"\w+", passage.text.lower())) for passage in passages]
    mean_length = sum(sum(count.values()) for count in words) / max(1, len(words))
    in_passages = Counter(word for count in words for word in count)

    def score(count: Counter[str]) -> float:
        total = 0.0
        for word in set(re.findall(r"\w+", question.lower())) & set(count):
            rarity = math.log(1 + (len(words) - in_passages[word] + 0.5) / (in_passages[word] + 0.5))
            length = sum(count.values()) / max(mean_length, 1e-9)
            total += rarity * count[word] * 2.2 / (count[word] + 1.2 * (0.25 + 0.75 * length))
        return total

    ranked = sorted(range(len(passages)), key=lambda index: (-score(words[index]), index))
    return [passages[index] for index in sorted(ranked[:top])]


# --------------------------------------------------------------------------------------------------------------- printing


def _print_report(report: dict[str, Any]) -> None:
    print(report["answer"])
    print()
    share = report["recomputed_share"]
    print(
        f"tokens    {report['prompt_tokens']} in the prompt, {report['reused_tokens']} from the store, "
        f"{report['recomputed_tokens']:.0f} computed (mean over layers, {share:.1%})"
    )
    print(f"chunks    {report['num_chunks']}: {', '.join(report['chunks'])}")
    print(f"loaded    {_size(report['loaded_bytes'])}")
    reason = f" (chosen: {report['ratio_reason']})" if report["ratio_reason"] else ""
    print(f"ratio     {report['ratio']:.3g}{reason}")
    print(f"ttft      {report['ttft_s']:.3f} s")
    for phase, seconds in report["phases_s"].items():
        print(f"  {phase:<10}{seconds:.3f} s")
    if report["loader_s"]:
        print(f"  (reading  {report['loader_s']:.3f} s on the loader thread)")
    print(f"decode    {report['decode_s']:.3f} s for {report['answer_tokens']} tokens")
    if "full_recompute" in report:
        full = report["full_recompute"]
        print(
            f"full recompute: ttft {full['ttft_s']:.3f} s ({full['ttft_s'] / report['ttft_s']:.2f}x), answer: {full['answer']}"
        )


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def _progress(items: Sequence[Passage], what: str) -> Iterable[Passage]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, description=what, console=console, disable=not console.is_terminal, transient=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
