"""The life of a query on a simulated engine: what is counted, what waits for what, and that bursts do not over-commit."""

import dataclasses

import numpy as np
import pytest

from common.errors import ConfigError
from common.serving.api import Answer, EngineFacts
from common.serving.cost import CostModel
from common.serving.simulator import SimEngine, SimOptions
from ragserve.api import METHODS, PROFILERS, Corpus, Dataset, Profile, Query, RagConfig
from ragserve.best_fit import peak_tokens
from ragserve.controller import (
    Controller,
    ControllerSettings,
    FeedbackSettings,
    State,
    golden_profile,
)
from ragserve.mapping import SpaceSettings
from ragserve.prompts import Prompts
from ragserve.servers import AsIfLonger
from ragserve.synthesis import Synthesised, SynthesisSettings

CHUNKS = tuple(f"Anna number {n} lives in Marlow." for n in range(12))
COST = CostModel((0, 1), (0.0, 0.0001), cpu_s=0.005, source="test")
SPACE = SpaceSettings((6, 12, 24), (1, 2, 3, 4, 6, 8, 12))


class Scripted:
    """A profiler that always says the same, after a while; remembers what it was taught."""

    def __init__(self, latency_s=0.5, pieces=2, confidence=1.0):
        self.own = Profile(False, True, pieces, (6, 12), confidence, latency_s)
        self.learnt = []

    def profile(self, query, corpus):
        return self.own

    def learn(self, query, corpus, golden):
        self.learnt.append((query.query_id, golden))


@pytest.fixture(scope="module")
def prompts(loaded):
    return Prompts(loaded.tokenizer)


def dataset(n=4):
    queries = tuple(
        Query(f"q{i}", f"Where does Anna number {i} live?", ("Marlow",), max_answer_tokens=8) for i in range(n)
    )
    return Dataset("test", (Corpus(CHUNKS, "people", 12),), queries)


def controller(prompts, policy, profiler=None, n=4, pool=4096, cost=COST, options=None, **settings):
    eos = prompts.stop_ids[0]
    engine = SimEngine(
        EngineFacts(4096, 2048, pool, max_batch_tokens=512, max_seqs=64),
        cost,
        lambda call: Answer((7, 8, eos)[: call.max_tokens], (-0.1, -0.2, -0.3)[: call.max_tokens]),
        options,
    )
    made = ControllerSettings(SynthesisSettings(2048), SPACE, **settings)
    return Controller(engine, policy, profiler, dataset(n), prompts, lambda query, k: CHUNKS[:k], made)


def test_a_single_query_takes_the_closed_form(prompts):
    policy = METHODS.create("fixed", synthesis="stuff", num_chunks=2)
    own = controller(prompts, policy, n=1)
    (record,) = own.serve(own.dataset.queries, [1.0])
    tokens = record.prompt_tokens
    # prefill in one iteration gives the first token, two more follow one by one: 3 x 5 ms + (prompt + 2) x 0.1 ms
    assert record.state is State.DONE
    assert record.delay_s == pytest.approx(3 * 0.005 + (tokens + 2) * 0.0001)
    assert (record.num_calls, record.output_tokens) == (1, 3)


def test_the_profile_is_part_of_the_delay(prompts):
    own = controller(prompts, METHODS.create("min_in_range"), Scripted(latency_s=0.5), n=1)
    (record,) = own.serve(own.dataset.queries, [2.0])
    assert record.profiled_s == pytest.approx(2.5)
    assert 0.5 < record.delay_s < 0.6


def test_the_reducer_goes_through_the_queue_after_all_mappers(prompts):
    policy = METHODS.create("fixed", synthesis="map_reduce", num_chunks=3, summary_tokens=12)
    own = controller(prompts, policy, n=1)
    seen = []
    submit = own.engine.submit

    def recorded(call):
        handle = submit(call)
        seen.append(handle)
        return handle

    own.engine.submit = recorded
    (record,) = own.serve(own.dataset.queries, [0.0])
    mappers, reducer = seen[:3], seen[3]
    assert len(seen) == 4
    assert reducer.completion.submitted_s == max(handle.completion.finished_s for handle in mappers)
    assert record.finished_s == reducer.completion.finished_s


@pytest.mark.parametrize("pool", [256, 640, 2048])
def test_a_burst_never_promises_more_than_the_pool(prompts, pool):
    own = controller(prompts, METHODS.create("ragserve"), Scripted(0.0), n=50, pool=pool)
    records = own.serve(own.dataset.queries, [0.0] * 50)
    assert all(record.state is State.DONE for record in records)
    for record in records:
        planned = own.planned(dataclasses.replace(record))
        fits = peak_tokens(record.config, planned.costs) * 1.02 <= record.available_tokens
        # what did not fit went out of the range, down to a single chunk
        assert fits or record.config.num_chunks == 1
    # the first of the burst got the most, and the pool was not handed out twice
    sizes = [record.config.num_chunks for record in records]
    assert sizes[0] == max(sizes)
    assert sizes[-1] == 1


def test_without_promises_a_burst_overcommits(prompts):
    blind = METHODS.create("ragserve", counts_promises=False)
    own = controller(prompts, blind, Scripted(0.0), n=50, pool=640)
    records = own.serve(own.dataset.queries, [0.0] * 50)
    assert {record.config.num_chunks for record in records} == {6}


def test_feedback_runs_for_every_30th_query(prompts):
    profiler = Scripted(0.0)
    policy = METHODS.create("ragserve_feedback")
    feedback = FeedbackSettings(30, RagConfig("map_reduce", 30, 24))
    own = controller(prompts, policy, profiler, n=91, feedback=feedback)
    records = own.serve(own.dataset.queries, np.arange(91.0))
    assert [golden.query.query_id for golden in own.golden] == ["q29", "q59", "q89"]
    assert [query_id for query_id, _ in profiler.learnt] == ["q29", "q59", "q89"]
    # its cost is counted, and its chunks are clipped to the corpus: 12 mappers
    assert all(golden.prompt_tokens > 12 * 8 for golden in own.golden)
    assert all(record.state is State.DONE for record in records)
    plain = controller(prompts, METHODS.create("ragserve"), Scripted(0.0), n=91)
    plain.serve(plain.dataset.queries, np.arange(91.0))
    assert plain.golden == []


def test_golden_profiles_by_rule():
    list_answer = Synthesised("Marlow, Kelby, Tarsk", -0.1, 2, 5)
    assert golden_profile(list_answer, SPACE) == Profile(False, True, 3, (12, 24), 1.0)
    derived = Synthesised("Marlow", -0.1, 2, 5)
    assert golden_profile(derived, SPACE) == Profile(True, True, 2, (8, 24), 1.0)
    assert golden_profile(Synthesised("Marlow", -0.1, 1, 5), SPACE) == Profile(False, False, 1, (6, 12), 1.0)


def test_fixed_methods_differ_in_admission_only():
    config = {"synthesis": "map_reduce", "num_chunks": 3, "summary_tokens": 12}
    fixed, parrot = METHODS.create("fixed", **config), METHODS.create("parrot", **config)
    assert dataclasses.asdict(fixed) == dataclasses.asdict(parrot)
    assert (fixed.is_gang, parrot.is_gang) == (False, True)


def test_the_same_stream_is_the_same_again(prompts):
    def delays(options):
        own = controller(prompts, METHODS.create("ragserve"), Scripted(0.01), n=30, pool=640, options=options)
        return [record.delay_s for record in own.serve(own.dataset.queries, np.linspace(0, 0.3, 30))]

    gang = SimOptions(order="gang", gang_rule="adjacent")
    assert delays(gang) == delays(gang)
    assert delays(SimOptions()) == delays(SimOptions())


def test_a_query_that_cannot_be_served_fails_with_a_reason(prompts):
    own = controller(prompts, METHODS.create("fixed", num_chunks=12), n=1, pool=32)
    (record,) = own.serve(own.dataset.queries, [0.0])
    assert record.state is State.FAILED
    assert "not one chunk" in record.error
    assert record.delay_s == float("inf")  # never answered is not answered fast


def test_a_profiling_method_needs_a_profiler(prompts):
    with pytest.raises(ConfigError, match="needs a profiler"):
        controller(prompts, METHODS.create("ragserve"))
    own = controller(prompts, METHODS.create("fixed"))
    with pytest.raises(ConfigError, match="4 queries came with 1"):
        own.serve(own.dataset.queries, [0.0])


def test_the_longer_engine_divides_what_it_shows(prompts):
    facts = EngineFacts(131072, 32768, 20480, max_batch_tokens=2048, watermark_tokens=204)
    seen = []

    def make(replay):
        def answers(call):
            seen.append(len(call.prompt_ids))
            return replay(call)

        return SimEngine(facts, COST, answers)

    eos = prompts.stop_ids[0]
    engine = AsIfLonger(make, lambda call: Answer((7, eos), (-0.1, -0.1)), 16, 2048)
    assert (engine.facts.pool_tokens, engine.facts.bytes_per_token, engine.free_tokens()) == (1280, 16 * 131072, 1280)
    policy = METHODS.create("fixed", num_chunks=2)
    own = Controller(
        engine,
        policy,
        None,
        dataset(1),
        prompts,
        lambda query, k: CHUNKS[:k],
        ControllerSettings(SynthesisSettings(2048), SPACE),
    )
    (record,) = own.serve(own.dataset.queries, [0.0])
    assert seen == [16 * record.prompt_tokens]  # the server saw sixteen times as much
    assert record.output_tokens == 2


def test_profilers_are_all_there():
    assert set(PROFILERS.names()) == {"chat", "local", "embedded", "oracle", "noisy"}
