"""The parser refuses what it should, confidence is that of the decisions, and the embedded profiler generalises."""

import http.server
import json
import math
import threading

import numpy as np
import pytest

from common.data.items import QueryProfile
from common.errors import ConfigError, DataUnavailable
from common.models.loading import wrap
from common.rng import for_component
from ragserve.api import PROFILERS, WORKLOADS, Corpus, Profile, Query
from ragserve.profilers import (
    NUM_FEEDBACK,
    LocalProfiler,
    gold_profile,
    mask_names,
    parse_reply,
    render_prompt,
    render_reply,
    reply_confidence,
)

CORPUS = Corpus(("a",), "quarterly financial reports", 1024)
GOOD = '{"complexity": "High", "joint_reasoning": "Yes", "pieces": 3, "summary_words": [60, 80]}'


def query(text="Who is older?", gold=None, name="q/0"):
    return Query(name, text, ("Anna",), gold_profile=gold)


def test_a_good_reply():
    assert parse_reply(GOOD) == Profile(True, True, 3, (60, 80))
    assert parse_reply(GOOD.replace("[60, 80]", "70")).summary_range == (70, 70)
    assert parse_reply(render_reply(Profile(False, True, 2, (30, 40)))) == Profile(False, True, 2, (30, 40))


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "High, yes, 3",
        GOOD + ",",  # no repair of nearly right JSON
        GOOD[:-1],
        "```json\n" + GOOD + "\n```",
        GOOD.replace('"High"', '"high"'),
        GOOD.replace("3", "0"),
        GOOD.replace("3", "11"),
        GOOD.replace("3", "2.5"),
        GOOD.replace("3", "true"),
        GOOD.replace("[60, 80]", "[80, 60]"),
        GOOD.replace("[60, 80]", "[60, 80, 90]"),
        GOOD.replace("[60, 80]", "[]"),
        GOOD.replace("[60, 80]", "[60, 2000]"),
        GOOD.replace('"pieces": 3, ', ""),
        GOOD.replace("}", ', "why": "x"}'),
        "[" * 5000,
        "null",
    ],
)
def test_everything_else_is_refused(reply):
    assert parse_reply(reply) is None


def test_confidence_is_that_of_the_decision_tokens():
    pieces = [
        '{"',
        'complexity": "',
        "High",
        '", "joint_reasoning": "',
        "Yes",
        '", "pieces": ',
        "3",
        ', "summary_words": [',
        "60",
        ", ",
        "80",
        "]}",
    ]
    logprobs = [
        -5.0,
        -5.0,
        math.log(0.8),
        -5.0,
        math.log(0.9),
        -5.0,
        math.log(0.5),
        -5.0,
        math.log(0.9),
        -5.0,
        math.log(0.9),
        -5.0,
    ]
    assert parse_reply("".join(pieces)) is not None
    # geometric mean of 0.8, 0.9, 0.5, 0.9, 0.9; the punctuation between, unsure as it is, does not count
    expected = (0.8 * 0.9 * 0.5 * 0.9 * 0.9) ** (1 / 5)
    assert reply_confidence(pieces, logprobs) == pytest.approx(expected)
    assert reply_confidence(pieces, logprobs, "min") == pytest.approx(0.5)
    assert reply_confidence(pieces[:5], logprobs[:5]) == 0.0
    assert reply_confidence([], []) == 0.0
    assert reply_confidence(pieces, logprobs[:-1]) == 0.0


def test_the_prompt_holds_the_query_the_metadata_and_the_last_examples():
    text = render_prompt("Who is older?", CORPUS)
    assert "Who is older?" in text
    assert "quarterly financial reports; chunk size 1024" in text
    assert CORPUS.chunks[0] not in text.split("Database:")[1].split("Question:")[0].replace(
        "quarterly financial reports", ""
    )


# --------------------------------------------------------------------------------------------------------------- embedded


@pytest.fixture(scope="module")
def embedded():
    return PROFILERS.create("embedded", num_questions=800)


def test_the_embedded_profiler_knows_unseen_wordings(embedded):
    right, confident = [], []
    for name in ("squad_like", "musique_like", "finsec_like"):
        dataset = WORKLOADS.create(name, corpus_seed=5, vague_rate=0.0).dataset(for_component(0, "t"), 40)
        for one in dataset.queries:
            profile = embedded.profile(one, dataset.corpora[one.corpus])
            gold = one.gold_profile
            right.append((profile.is_complex, profile.needs_joint) == (gold.is_complex, gold.needs_joint_reasoning))
            confident.append(profile.confidence >= 0.9)
            assert 0.0 <= profile.confidence <= 1.0
    assert np.mean(right) > 0.85
    assert np.mean([r for r, c in zip(right, confident, strict=True) if c]) > 0.95
    assert np.mean(confident) > 0.5


def test_it_is_less_sure_of_what_says_nothing(embedded):
    corpus = Corpus(("a",), "quarterly financial reports of companies", 70)
    clear = embedded.profile(query("How high was Norvex's profit in the second quarter?"), corpus)
    vague = embedded.profile(query("What about Norvex?"), corpus)
    assert vague.confidence < 0.9 < clear.confidence


def test_it_keeps_four_examples_and_uses_them():
    own = PROFILERS.create("embedded", num_questions=800)
    golden = Profile(True, True, 7, (28, 84))
    for number in range(6):
        own.learn(query(f"Tell me all that was said about the topic number {number}."), CORPUS, golden)
    assert len(own._examples) == NUM_FEEDBACK
    assert own.profile(query("Tell me all that was said about the topic number 9."), CORPUS).pieces == 7
    assert own.profile(query("How old is Anna?"), CORPUS).pieces != 7


def test_names_do_not_count():
    assert mask_names("How old is Anna now?") == "How old is NAME now?"
    assert mask_names("Where is Karl's employer based?") == "Where is NAME employer based?"


# ---------------------------------------------------------------------------------------------------------------- oracles

GOLD = QueryProfile(True, True, 3, (12, 36))


def test_the_oracle_repeats_the_gold_profile():
    assert gold_profile(query(gold=GOLD)) == Profile(True, True, 3, (12, 36), 1.0)
    with pytest.raises(ConfigError, match="no gold profile"):
        PROFILERS.create("oracle").profile(query(), CORPUS)


def test_the_noisy_one_errs_as_often_as_told():
    never = PROFILERS.create("noisy", error_rate=0.0)
    often = PROFILERS.create("noisy", error_rate=0.3, awareness=1.0)
    queries = [query(gold=GOLD, name=f"q/{n}") for n in range(400)]
    assert all(never.profile(one, CORPUS).pieces == 3 for one in queries)
    found = [often.profile(one, CORPUS) for one in queries]
    assert np.mean([p.pieces != 3 for p in found]) == pytest.approx(0.3, abs=0.07)
    assert np.mean([not p.is_complex for p in found]) == pytest.approx(0.3, abs=0.07)
    assert found == [often.profile(one, CORPUS) for one in queries]
    wrong = [p for p in found if (p.is_complex, p.needs_joint, p.pieces, p.summary_range) != (True, True, 3, (12, 36))]
    assert np.mean([p.confidence < 0.9 for p in wrong]) > 0.8
    with pytest.raises(ConfigError, match="error_rate=2"):
        PROFILERS.create("noisy", error_rate=2.0)


# ---------------------------------------------------------------------------------------------------------- LLM profilers


@pytest.fixture
def chat_server():
    """A chat endpoint that answers as scripted: (status, body)."""
    state = {"replies": [], "requests": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            state["requests"].append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, body = state["replies"].pop(0)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state["url"] = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def chat_reply(text, logprob=-0.01):
    tokens = [{"token": piece, "logprob": logprob} for piece in text.replace(" ", " \x00").split("\x00")]
    return {
        "choices": [{"message": {"content": text}, "logprobs": {"content": tokens}}],
        "usage": {"total_tokens": 321},
    }


def test_the_chat_profiler(chat_server):
    ticks = iter(range(100))
    own = PROFILERS.create("chat", base_url=chat_server["url"], model="m", clock=lambda: next(ticks))
    chat_server["replies"] = [
        (200, chat_reply(GOOD)),
        (200, chat_reply("I think it is hard")),
        (500, {}),
        (200, b"no json"),
        (200, {"choices": []}),
        (200, chat_reply(GOOD, -1.0)),
    ]
    good = own.profile(query(), CORPUS)
    assert (good.pieces, good.tokens, good.latency_s) == (3, 321, 1)
    assert good.confidence == pytest.approx(math.exp(-0.01))
    for _ in range(4):  # prose, a server error, no JSON, an empty reply
        assert own.profile(query(), CORPUS).confidence == 0.0
    own.learn(query("Why?"), CORPUS, Profile(True, True, 9, (30, 60)))
    assert own.profile(query(), CORPUS).confidence == pytest.approx(math.exp(-1))
    request = chat_server["requests"][-1]
    assert request["logprobs"] is True
    assert '"pieces": 9' in request["messages"][0]["content"]
    chat_server["replies"] = [(401, {})]
    with pytest.raises(DataUnavailable, match="401"):
        own.profile(query(), CORPUS)


def test_the_chat_profiler_without_a_server():
    own = PROFILERS.create("chat", base_url="http://127.0.0.1:9/v1", timeout_s=1.0)
    assert own.profile(query(), CORPUS).confidence == 0.0
    with pytest.raises(ConfigError, match="base_url"):
        PROFILERS.create("chat", base_url="ftp://x")


def test_a_small_local_model_gives_garbage_and_no_confidence(loaded):
    own = LocalProfiler(loaded=wrap(loaded.model, loaded.tokenizer))
    profile = own.profile(query(), CORPUS)
    assert profile.confidence == 0.0
