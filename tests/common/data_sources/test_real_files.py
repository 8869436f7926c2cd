"""The loaders on the real files, where a data root is at hand: counts, samples seen by eye, and what must hold throughout."""

import json
import math

import pytest

from common.data.chunking import rechunk
from common.data.sources import DATASETS, DataSpec, TextDataset, by_context, load_items
from common.errors import DataUnavailable
from common.metrics import metric

# At least so many: the owners' complete files have more.
NUM_ITEMS = {
    "squad": 816,
    "musique": 100,
    "2wikimqa": 20,
    "hotpotqa": 29,
    "qmsum": 217,
    "squality": 100,
    "finsec": 116,
    "tatqa": 1080,
    "longchat_topics": 25,
    "longchat_lines": 30,
    "kv_retrieval": 40,
    "nq_open": 300,
    "gsm8k": 300,
    "pubmedqa": 300,
    "wikitext": 60,
    "books": 52,
}
WITH_EVIDENCE = {"squad", "finsec", "tatqa", "longchat_topics", "longchat_lines", "kv_retrieval", "nq_open"}


@pytest.fixture(scope="module")
def load(text_root):
    known = {}

    def items(name, **options):
        key = (name, *sorted(options.items()))
        if key not in known:
            try:
                known[key] = list(load_items(DataSpec("local", name, text_root.parent, options)))
            except DataUnavailable as error:
                pytest.skip(str(error))
        return known[key]

    return items


def test_every_dataset_with_files_is_covered():
    local = {name for name in DATASETS if DATASETS.get(name).paths is not TextDataset.paths}
    only_longbench = {"samsum", "multi_news", "triviaqa", "narrativeqa"}
    assert local - only_longbench - {"jsonl"} == set(NUM_ITEMS)


@pytest.mark.parametrize("name", NUM_ITEMS)
def test_what_holds_for_every_item(load, name):
    items = load(name)
    assert len(items) >= NUM_ITEMS[name]
    assert len({item.item_id for item in items}) == len(items)
    for item in items:
        assert item.item_id.startswith(f"{name}-")
        assert item.family
        assert all(chunk.strip() for chunk in item.chunks)
        assert list(item.evidence) == sorted({i for i in item.evidence if 0 <= i < len(item.chunks)})
        assert 1 <= item.max_answer_tokens <= 512
        if item.family == "language_model":
            assert not item.question
            assert not item.answers
        else:
            assert item.question == item.question.strip() != ""
            assert item.answers
            assert metric(item.metric)(item.answers[0], item.answers) == 1.0, item.item_id
    assert all(bool(item.evidence) for item in items) == (name in WITH_EVIDENCE)


@pytest.mark.parametrize("name", ["squad", "tatqa", "nq_open", "kv_retrieval", "longchat_lines"])
def test_the_answer_stands_in_the_evidence(load, name):
    found = total = 0
    for item in load(name):
        if item.family in ("arithmetic", "count", "multi_span"):
            continue
        text = " ".join(item.chunks[i] for i in item.evidence)
        answers = [answer.removesuffix("%").rsplit(" ", 1)[0] if name == "tatqa" else answer for answer in item.answers]
        found += any(answer.lower() in text.lower() for answer in answers)
        total += 1
    # TAT-QA's annotators typed their spans (dashes, quotes and spaces differ); NQ's gold passages were cut to 100 words.
    assert found / total >= {"tatqa": 0.9, "nq_open": 0.9}.get(name, 1.0)


def test_squad_shares_contexts(load):
    groups = by_context(load("squad"))
    assert len(groups) >= 32
    assert all(len(group[0].chunks) == 5 for group in groups)
    first = load("squad")[0]
    assert (first.question, first.answers) == ("How many points did the Panthers defense surrender?", ("308",))
    assert "308" in first.chunks[first.evidence[0]]


def test_longchat_chunks_give_the_prompts_back(load, text_root):
    for name, file in (("longchat_topics", "10_topics"), ("longchat_lines", "200_lines")):
        lines = (text_root / "longchat" / f"{file}.jsonl").read_text().splitlines()
        for item, line in zip(load(name), lines, strict=True):
            assert "".join(item.chunks) + " " + item.question == json.loads(line)["prompt"].rstrip()
    for item in load("longchat_topics"):
        assert item.answers[0].lower() in item.chunks[1].lower()[:200]
    assert len(load("longchat_topics", num_topics=5)) >= 30


def test_kv_chunks_join_to_the_json_object(load):
    for item in load("kv_retrieval"):
        pairs = json.loads("".join(item.chunks))
        assert len(pairs) == 75
        assert pairs[item.question.split('"')[1]] == item.answers[0]


def test_finsec(load):
    items = load("finsec")
    assert {item.family for item in items} == {"single_chunk", "multi_chunk", "multi_document"}
    assert all((len(item.chunks) == 1) == (item.family != "multi_document") for item in items)
    first = items[0]
    assert first.question == "How has Apple's total net sales changed over time?"
    assert [chunk.partition("\n")[0] for chunk in first.chunks] == [
        f"{q} AAPL" for q in ("2022 Q3", "2023 Q1", "2023 Q2", "2023 Q3")
    ]
    assert not any("SOURCE" in item.answers[0] or "â€" in item.answers[0] for item in items)


def test_gsm8k_reads_its_own_solutions(load, text_root):
    lines = (text_root / "gsm8k" / "gsm8k_test_000_299.jsonl").read_text().splitlines()
    for item, line in zip(load("gsm8k"), lines, strict=True):
        assert metric(item.metric)(json.loads(line)["answer"], item.answers) == 1.0
    items = load("gsm8k", num_shots=8)
    assert len(items) == len(load("gsm8k")) - 8
    assert len(by_context(items)) == 1
    assert len(items[0].chunks) == 8
    assert not any("<<" in chunk for chunk in items[0].chunks)


def test_qmsum_evidence_survives_rechunking(load):
    item = next(item for item in load("qmsum") if item.evidence)
    encode = str.split  # word counts stand in for token counts
    new = rechunk(item, encode, 200, boundary="sentence", across_passages=True, separator="\n")
    assert max(len(encode(chunk)) for chunk in new.chunks) <= 200
    assert len(new.chunks) >= math.ceil(sum(len(encode(chunk)) for chunk in item.chunks) / 200)
    joined = "\n".join(new.chunks[i] for i in new.evidence)
    assert sum(item.chunks[i] in joined for i in item.evidence) >= 0.9 * len(item.evidence)  # the rest is cut in two
    assert len(new.evidence) < len(new.chunks)


def test_worked_examples_all_have_five_or_so_passages(load):
    for name in ("2wikimqa", "hotpotqa"):
        assert all(4 <= len(item.chunks) <= 8 for item in load(name))
        assert all("So the answer" not in item.answers[0] for item in load(name))


def test_prose(load):
    assert load("wikitext")[0].chunks[0] == "= Homarus gammarus ="
    for title in ("dracula", "great_expectations", "pride_and_prejudice", "sherlock_holmes"):
        items = load("books", title=title)
        assert len(items) > 20
        assert not any("Gutenberg" in chunk for item in items[1:-1] for chunk in item.chunks)
    assert len(load("books", title="tinyshakespeare")) > 40  # a file without Gutenberg's marks
