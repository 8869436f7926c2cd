"""The command line: `python -m ragserve ask|plan`. `--help` says what each does.

Exit codes: 0 done; 1 it failed; 2 an argument was refused; 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import exit_status, read_text
from common.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ragserve", description="Choose how to answer a question from documents, and answer it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    ask = commands.add_parser(
        "ask", help="answer a question from text files with the configuration that a method chooses"
    )
    _add_common(ask)
    ask.add_argument("documents", type=Path, nargs="+", help="text files to retrieve from")
    ask.add_argument("--model", default="rag_small", help="rag_small, a bundled model, a folder, or a hub id")
    ask.add_argument("--source", default="bundled", choices=("bundled", "local", "hf"))
    ask.add_argument("--embedder", default="tfidf_svd")
    ask.add_argument("--overlap-tokens", type=int, default=0)
    ask.add_argument("--max-answer-tokens", type=int, default=16)
    ask.set_defaults(run=_ask)

    plan = commands.add_parser(
        "plan", help="show a question's profile, its pruned space and the choice for some free memory"
    )
    _add_common(plan)
    plan.add_argument("--max-chunks", type=int, default=30, help="chunks of the corpus")
    plan.add_argument("--max-answer-tokens", type=int, default=16)
    plan.set_defaults(run=_plan)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--question", required=True)
    parser.add_argument("--method", default="ragserve", help="a registered method")
    parser.add_argument("--free-tokens", type=int, default=16384, help="tokens that the KV pool has free")
    parser.add_argument("--chunk-tokens", type=int, default=64)
    parser.add_argument("--metadata", default="passages of text", help="one line about the documents, for the profiler")


def _planned(options: argparse.Namespace, query: Any, corpus: Any, costs: Any, most: int) -> tuple[Any, Any]:
    """The query as its policy sees it on an idle server, and what the policy chooses."""
    from ragserve.api import METHODS, PROFILERS, PlannedQuery, ServerLoad
    from ragserve.mapping import ProfileWindow, SpaceSettings

    if not options.question.strip():
        raise ConfigError("the question is empty.")
    if options.free_tokens < 0 or options.max_answer_tokens < 1 or options.chunk_tokens < 1:
        raise ConfigError(
            f"--free-tokens={options.free_tokens} must be at least 0, --max-answer-tokens={options.max_answer_tokens} and "
            f"--chunk-tokens={options.chunk_tokens} at least 1."
        )
    policy = METHODS.create(options.method)
    if hasattr(policy, "informed_by"):
        raise ConfigError(f"method {options.method!r} learns from other queries; it runs in experiments only.")
    profile = PROFILERS.create("embedded").profile(query, corpus)
    # The lengths of the paper, scaled to chunks of this size.
    grid = tuple(dict.fromkeys(max(4, round(s * options.chunk_tokens / 1024)) for s in range(30, 201, 10)))
    space, is_trusted = ProfileWindow(SpaceSettings(summary_grid=tuple(sorted(grid)))).space_for(profile, most)
    planned = PlannedQuery(query, profile, space, costs, most)
    config = policy.choose(planned, ServerLoad(options.free_tokens, 0, options.free_tokens))
    explained = {
        "profile": {
            "complexity": "High" if profile.is_complex else "Low",
            "joint_reasoning": "Yes" if profile.needs_joint else "No",
            "pieces": profile.pieces,
            "summary_words": list(profile.summary_range),
            "confidence": round(profile.confidence, 3),
        },
        "is_trusted": is_trusted,
        "space": [one.label for one in space],
        "free_tokens": options.free_tokens,
        "config": config.label,
    }
    return config, explained


def _plan(options: argparse.Namespace) -> None:
    from ragserve.api import Corpus, Query, TokenCosts

    words = len(options.question.split())
    costs = TokenCosts(2 * words + 8, options.chunk_tokens, options.max_answer_tokens, options.max_answer_tokens, 4096)
    query = Query("question", options.question, (), max_answer_tokens=options.max_answer_tokens)
    corpus = Corpus((), options.metadata, options.chunk_tokens)
    _, explained = _planned(options, query, corpus, costs, options.max_chunks)
    print(json.dumps(explained, indent=1))


def _ask(options: argparse.Namespace) -> None:
    from common.experiment import Run
    from common.retrieval.passages import passages_of
    from common.retrieval.retriever import Retriever
    from ragserve.answers import AnswerTable, Job
    from ragserve.api import Corpus, Query
    from ragserve.harness import serving_model
    from ragserve.prompts import Prompts
    from ragserve.synthesis import SynthesisSettings, max_chunks, token_costs

    texts = [read_text(path) for path in options.documents]
    settings = {"name": options.model, "source": options.source}
    if options.source != "bundled":
        settings["path"] = options.model
    run = Run("ragserve", "ask", "cpu", 0, 1, {}, model=settings)
    loaded = serving_model(run)
    prompts = Prompts(loaded.tokenizer)
    passages = passages_of(
        texts,
        lambda text: loaded.tokenizer.encode(text, add_special_tokens=False),
        options.chunk_tokens,
        options.overlap_tokens,
    )
    if not passages:
        raise ConfigError("the documents hold no text.")
    query = Query("question", options.question, (), max_answer_tokens=options.max_answer_tokens)
    # The separator of a prompt adds a token to every chunk.
    corpus = Corpus(tuple(passage.text for passage in passages), options.metadata, options.chunk_tokens + 2)
    synthesis = SynthesisSettings(int(loaded.config.max_position_embeddings))
    costs = token_costs(prompts, query, corpus.chunk_tokens, loaded.kv_bytes_per_token, synthesis)
    most = max_chunks(costs, len(corpus.chunks), synthesis.context_tokens)
    if most < 1:
        raise ConfigError(
            f"{costs.query} tokens of question and instructions, a chunk of {costs.chunk} and an answer of {costs.answer} do not "
            f"fit into the model's {synthesis.context_tokens}; shorten the question, --chunk-tokens or --max-answer-tokens."
        )
    config, explained = _planned(options, query, corpus, costs, most)
    ids, distances = Retriever(options.embedder).fit(corpus.chunks).search([query.text], config.num_chunks)
    job = Job(query, tuple(corpus.chunks[index] for index in ids[0]), config)
    (answer,) = AnswerTable(loaded).answer_all(prompts, [job], synthesis)
    explained["chunks"] = [
        {
            "text": text,
            "document": str(options.documents[passages[int(index)].document]),
            "distance": round(float(d), 3),
        }
        for text, index, d in zip(job.chunks, ids[0], distances[0], strict=True)
    ]
    explained["answer"] = answer.text
    explained["calls"] = answer.num_calls
    print(json.dumps(explained, indent=1))


if __name__ == "__main__":
    sys.exit(main())
