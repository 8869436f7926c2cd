"""Bisection, fronts, arrivals, answer tables, workloads, and the contract of methods."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cache import ArtefactCache
from common.errors import ConfigError, CorruptBitstream
from common.rng import for_component
from common.serving.api import Call
from ragserve.answers import AnswerTable, Job
from ragserve.api import METHODS, WORKLOADS, PlannedQuery, Profile, Query, RagConfig, ServerLoad, TokenCosts
from ragserve.contract import check_method, check_workload
from ragserve.generation import generate
from ragserve.harness import bisect_rate, busy_time, front, poisson_arrivals
from ragserve.methods import best_outcome, predicted_delay_s
from ragserve.prompts import Prompts
from ragserve.synthesis import SynthesisSettings

ROOT = Path(__file__).resolve().parents[2]
QUERY = Query("q/0", "Where does Anna live?", ("Marlow",), max_answer_tokens=6)
CHUNKS = ("Anna lives in Marlow.", "Adam lives in Kelby.", "The Aero costs 24 dollars.")


@pytest.mark.parametrize("name", METHODS.names())
def test_methods_keep_the_contract(name):
    check_method(name)


@pytest.mark.parametrize("name", WORKLOADS.names())
def test_workloads_keep_the_contract(name):
    check_workload(name)


def test_texts_do_not_depend_on_the_process():
    code = (
        "from common.rng import for_component; from ragserve.api import WORKLOADS; import hashlib;"
        "d = [WORKLOADS.create(n).dataset(for_component(0, 't'), 8) for n in ('musique_like', 'finsec_like')];"
        "print(hashlib.sha256(repr(d).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_evidence_holds_the_answers():
    dataset = WORKLOADS.create("squad_like", vague_rate=0.0).dataset(for_component(0, "t"), 20)
    for query in dataset.queries:
        text = " ".join(dataset.corpora[query.corpus].chunks[index] for index in query.evidence)
        assert query.answers[0] in text


def test_some_queries_are_vague_and_say_so():
    dataset = WORKLOADS.create("squad_like", vague_rate=1.0).dataset(for_component(0, "t"), 5)
    assert all(query.is_vague for query in dataset.queries)
    with pytest.raises(ConfigError, match="vague_rate=2"):
        WORKLOADS.create("squad_like", vague_rate=2.0)


# ------------------------------------------------------------------------------------------------------- small instruments


@given(st.floats(0.3, 40.0), st.floats(0.2, 8.0))
def test_bisection_agrees_with_a_scan(limit, start):
    found = bisect_rate(lambda rate: rate <= limit, start, 2 * start, 0.01)
    scanned = max(rate for rate in np.geomspace(0.01, 100, 4000) if rate <= limit)
    assert found <= limit
    assert found == pytest.approx(scanned, rel=0.02)


def test_bisection_of_the_impossible():
    assert bisect_rate(lambda rate: False, 1.0, 2.0) == 0.0


@given(
    st.dictionaries(
        st.integers(1, 30).map(lambda k: RagConfig("stuff", k)), st.tuples(st.floats(0, 1), st.floats(0, 9)), min_size=1
    )
)
def test_the_front_holds_what_nothing_beats(outcomes):
    kept = front(outcomes)
    for config, (f1, delay) in outcomes.items():
        beaten = any(g >= f1 and d <= delay and (g, d) != (f1, delay) for g, d in outcomes.values())
        if config in kept:
            assert not any(g >= f1 and d <= delay and (g > f1 or d < delay) for g, d in outcomes.values())
        else:
            assert beaten or any(outcomes[other] == (f1, delay) for other in kept)


def test_arrivals_have_the_rate_that_they_are_labelled_with():
    times = poisson_arrivals(np.random.default_rng(0), 500, 4.0)
    assert times[-1] == pytest.approx(500 / 4.0)
    gaps = np.diff([0.0, *times])
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1.0, abs=0.15)  # exponential, not regular
    assert poisson_arrivals(np.random.default_rng(0), 500, 8.0) == pytest.approx(np.array(times) / 2)
    with pytest.raises(ConfigError, match="rate_per_s=0"):
        poisson_arrivals(np.random.default_rng(0), 5, 0)


def test_busy_time_is_the_union_of_intervals():
    from ragserve.controller import Record

    def record(start, stop):
        return Record(QUERY, start, planned_s=start, finished_s=stop, num_calls=1)

    assert busy_time([record(0, 2), record(1, 3), record(5, 6)], []) == pytest.approx(4.0)
    assert busy_time([], []) == 0.0


def test_the_oracle_dominates():
    outcomes = {
        RagConfig("stuff", 2): (0.8, 3.0),
        RagConfig("stuff", 3): (0.81, 5.0),
        RagConfig("map_rerank", 1): (0.5, 1.0),
    }
    # within 0.02 of 0.81 the faster one
    assert best_outcome(outcomes, 0.02) == RagConfig("stuff", 2)
    assert best_outcome(outcomes, 0.0) == RagConfig("stuff", 3)


# -------------------------------------------------------------------------------------------------------- delay-aware fit


def planned(space):
    costs = TokenCosts(50, 100, 20, 20, 1)
    return PlannedQuery(QUERY, Profile(True, True, 3, (30, 60)), space, costs, 40)


SPACE = tuple(RagConfig("stuff", k) for k in range(3, 10))


def load(queued=0, free=10**6):
    return ServerLoad(free, 0, 10**6, prefill_tokens=queued, prefill_tokens_per_s=1000.0, decode_step_s=0.01)


def test_predicted_delay_by_hand():
    # (400 queued + 3 x 100 + 50) tokens at 1000 a second, then 20 steps of 10 ms
    assert predicted_delay_s(SPACE[0], planned(SPACE), load(400)) == pytest.approx(0.75 + 0.2)
    config = RagConfig("map_reduce", 2, 30)
    # mappers 2 x 150, reducer 2 x 30 + 50; 30 + 20 steps
    assert predicted_delay_s(config, planned((config,)), load()) == pytest.approx(0.41 + 0.5)


def test_delay_aware_takes_less_as_the_queue_grows():
    policy = METHODS.create("delay_aware", patience=1.25)
    sizes = [policy.choose(planned(SPACE), load(queued)).num_chunks for queued in range(0, 2000, 50)]
    assert sizes[0] == 9  # idle: the richest, as best fit
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 3  # hopeless: the fastest
    assert (
        policy.choose(planned(SPACE), load(0, free=500)).num_chunks == 4
    )  # and it must fit: 4 x 100 + 70 <= 500 / 1.02


def test_best_fit_takes_the_richest_whatever_the_queue():
    policy = METHODS.create("ragserve")
    assert policy.choose(planned(SPACE), load(2000)).num_chunks == 9


# ------------------------------------------------------------------------------------------------------------- the answers


def test_batches_give_what_single_calls_give(loaded):
    rng = np.random.default_rng(0)
    calls = [
        Call(tuple(rng.integers(6, 1500, int(length)).tolist()), int(most), stop_ids=(2,))
        for length, most in zip(rng.integers(3, 60, 12), rng.integers(1, 12, 12), strict=True)
    ]
    together = generate(loaded, calls, batch_tokens=300)
    alone = [generate(loaded, [call])[0] for call in calls]
    for call, one, other in zip(calls, together, alone, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
        assert len(one.tokens) <= call.max_tokens
    # and that is what the model's own greedy decoding gives
    import torch

    ids = torch.tensor([calls[0].prompt_ids])
    expected = loaded.model.generate(
        ids, max_new_tokens=calls[0].max_tokens, do_sample=False, eos_token_id=2, pad_token_id=0
    )
    assert tuple(expected[0, len(calls[0].prompt_ids) :].tolist()) == together[0].tokens


def test_a_prompt_runs_once_for_all_caps(loaded):
    table = AnswerTable(loaded)
    ids = tuple(range(10, 40))
    long = table(Call(ids, 20, stop_ids=(2,)))
    assert table.num_run == 1
    assert table(Call(ids, 5, stop_ids=(2,))).tokens == long.tokens[:5]
    assert table.num_run == 1  # a prefix of what is known
    table(Call(ids, 30, stop_ids=(2,)))
    assert table.num_run == (2 if len(long.tokens) == 20 and long.tokens[-1] != 2 else 1)


def test_answers_are_kept(loaded, tmp_path):
    prompts, settings = Prompts(loaded.tokenizer), SynthesisSettings(2048)
    configs = (RagConfig("stuff", 2), RagConfig("map_rerank", 3), RagConfig("map_reduce", 2, 6))
    jobs = [Job(QUERY, CHUNKS, config) for config in configs]
    cache, description = ArtefactCache(tmp_path), {"model": loaded.fingerprint}
    first = AnswerTable(loaded)
    first.fill_cached(cache, description, prompts, jobs, settings)
    assert first.num_run > 0

    def no_model():
        raise AssertionError("a full table needs no model")

    second = AnswerTable(no_model)
    second.fill_cached(cache, description, prompts, jobs, settings)
    assert second.num_run == 0
    for one, other in zip(
        first.answer_all(prompts, jobs, settings), second.answer_all(prompts, jobs, settings), strict=True
    ):
        assert (one.text, one.num_notes, one.num_calls) == (other.text, other.num_notes, other.num_calls)
        assert one.confidence == pytest.approx(other.confidence, rel=1e-6) or one.confidence == other.confidence
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(CorruptBitstream, match="no table of answers"):
        second.load(tmp_path / "bad.parquet")


def test_too_long_a_call_is_refused(loaded):
    with pytest.raises(ConfigError, match="exceed the model's context"):
        generate(loaded, [Call(tuple(range(6, 1000)) * 3, 5)])
