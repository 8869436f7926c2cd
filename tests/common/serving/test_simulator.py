"""SimEngine: its books, its rules, its times."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from common.serving.api import Answer, Call, Engine, EngineFacts
from common.serving.cost import CostModel, preset
from common.serving.simulator import SimEngine, SimOptions
from tests.common.serving.plain_simulator import simulate

COST = CostModel(
    (0, 1000), (0.001, 0.101), (0, 1), (0.0, 1e-8), beta_s=1e-6, gamma_s=2e-6, decode_s=1e-4, chunk_s=3e-4, cpu_s=2e-3
)
SMALL = EngineFacts(100, 1000, pool_tokens=64 * 16, max_batch_tokens=64, max_seqs=16, watermark_tokens=16)


def full_answer(call):
    return Answer(tuple(range(call.max_tokens)))


def build(facts=SMALL, cost=COST, answers=full_answer, **options):
    return SimEngine(facts, cost, answers, SimOptions(**options))


def prompt(length, first=1):
    return (first,) * length


def serve(engine, arrivals):
    """Submit (time, prompt tokens, answer tokens); returns completions in the order of arrival."""
    handles = []
    for at_s, length, answer in arrivals:
        call = Call(prompt(length), answer, tag=str(len(handles)))
        engine.call_at(at_s, lambda call=call: handles.append(engine.submit(call)))
    engine.run()
    return [handle.completion for handle in handles]


def random_arrivals(seed, n=40, gap_s=0.02, longest=200, answer=40):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(gap_s, n))
    return [(float(t), int(rng.integers(1, longest)), int(rng.integers(1, answer))) for t in times]


arrivals = st.lists(
    st.tuples(st.floats(0, 0.3, allow_subnormal=False), st.integers(1, 150), st.integers(1, 60)),
    min_size=1,
    max_size=14,
).map(lambda items: sorted(items, key=lambda item: item[0]))
facts = st.builds(
    lambda pages, page, batch, seqs, water: EngineFacts(
        100, 1000, pages * page, page, max(batch, seqs), seqs, min(water, pages - 1) * page
    ),
    st.integers(14, 40),
    st.sampled_from([16, 17]),
    st.integers(8, 300),
    st.integers(1, 8),
    st.integers(0, 2),
)


def test_it_is_an_engine():
    assert isinstance(build(), Engine)
    assert build().basis == "modelled"
    assert dataclasses.replace(COST, basis="simulated").basis == "simulated"


@settings(max_examples=80, deadline=None)
@given(arrivals, facts, st.sampled_from(["whole_prompt", "chunk"]), st.booleans())
def test_agrees_with_the_plain_token_by_token_simulator(items, server, admission, is_fast):
    engine = build(server, admission=admission, is_fast=is_fast)
    done = serve(engine, items)
    expected = simulate(server, COST, items, admission)
    for ours, plain, (at_s, _, _) in zip(done, expected, items, strict=True):
        assert ours.submitted_s == at_s  # also in the middle of an iteration
        assert ours.preemptions == plain.preemptions
        assert ours.started_s == pytest.approx(plain.started_s, rel=1e-9, abs=1e-12)
        assert ours.first_token_s == pytest.approx(plain.first_s, rel=1e-9)
        assert ours.finished_s == pytest.approx(plain.done_s, rel=1e-9)
    assert engine.free_tokens() == engine.num_pages * server.page_tokens
    assert engine.promised_tokens() == 0
    engine.check()


@settings(max_examples=25, deadline=None)
@given(arrivals, facts, st.sampled_from(["whole_prompt", "chunk"]), st.sampled_from(["fcfs", "gang"]))
def test_pages_are_conserved_at_every_instant(items, server, admission, order):
    engine = build(server, admission=admission, order=order, keep_trace=True)
    handles = []
    for index, (at_s, length, answer) in enumerate(items):
        call = Call(
            prompt(length, 1 + index % 2),
            answer,
            group=f"g{index // 3}",
            depth=index % 2,
            service="throughput" if index % 3 else "latency",
            prefix_tokens=length // 2,
        )
        engine.call_at(at_s, lambda call=call: handles.append(engine.submit(call).on_done(lambda _: engine.check())))
    for instant in np.linspace(0, 0.6, 97):
        engine.call_at(float(instant), engine.check)
    engine.run()
    engine.check()
    assert all(handle.is_done for handle in handles)
    assert engine.free_tokens() == engine.num_pages * server.page_tokens
    assert engine.promised_tokens() == 0
    assert len(engine.trace) == engine.iterations


def test_single_request_takes_the_closed_form():
    # 150 prompt tokens in chunks of 64, 64 and 22, then 4 decodes that attend to 151 ... 154 tokens.
    engine = build()
    (done,) = serve(engine, [(0.5, 150, 5)])
    linear = [0.001 + 1e-4 * n for n in (64, 64, 22)]
    pairs = [64 * 65 / 2, 64 * 64 + 64 * 65 / 2, 22 * 128 + 22 * 23 / 2]
    block = [64 * 64, 64 * 128, 22 * 150]
    prefill = sum(l + 1e-6 * p + 1e-8 * k + 3e-4 + 2e-3 for l, p, k in zip(linear, pairs, block, strict=True))  # noqa: E741
    decode = sum(0.0011 + 1e-4 + 2e-6 * kv + 1e-8 * kv + 2e-3 for kv in (151, 152, 153, 154))
    assert done.started_s == done.submitted_s == 0.5
    assert done.first_token_s == pytest.approx(0.5 + prefill)
    assert done.delay_s == pytest.approx(prefill + decode)
    assert done.delay_s == pytest.approx(COST.single_s(150, 5, 64))
    assert engine.iterations == 7


def test_first_admissions_are_first_come_first_served():
    done = serve(build(), random_arrivals(0, gap_s=0.002))
    assert max(completion.preemptions for completion in done) > 0  # the pool was short
    started = [completion.started_s for completion in done]
    assert started == sorted(started)
    assert all(a.submitted_s <= a.started_s < a.first_token_s <= a.finished_s for a in done)


def test_head_of_line_blocks_those_that_would_fit():
    # 64 pages. A holds 60 of them for long; B needs 5 and waits; C needs 1 and waits behind B.
    engine = build(dataclasses.replace(SMALL, watermark_tokens=0))
    a, b, c = serve(engine, [(0, 60 * 16, 17), (0.001, 16 * 4 + 1, 2), (0.002, 3, 2)])
    assert b.started_s == a.finished_s
    assert c.started_s >= b.started_s


@pytest.mark.parametrize("admission", ["whole_prompt", "chunk"])
def test_preempted_calls_recompute_and_answer_the_same(admission):
    few = dataclasses.replace(SMALL, pool_tokens=16 * 16)
    items = [(0.0, 60, 60), (0.0, 60, 60), (0.0, 60, 60)]
    engine = build(few, admission=admission, keep_trace=True)
    done = serve(engine, items)
    assert [completion.preemptions for completion in done] == sorted(completion.preemptions for completion in done)
    assert done[0].preemptions == 0  # always the one admitted last
    assert done[2].preemptions > 0
    assert all(completion.tokens == tuple(range(60)) for completion in done)
    # Without preemption 180 prompt tokens are computed; each recomputation computes prompt and answer so far again.
    assert sum(row.prefill_tokens for row in engine.trace) > 180
    assert sum(row.preempted for row in engine.trace) == sum(completion.preemptions for completion in done)


def test_no_iteration_idles_while_work_is_there():
    engine = build(keep_trace=True)
    serve(engine, random_arrivals(1))
    for row, after in itertools.pairwise(engine.trace):
        assert row.prefill_tokens + row.num_decode > 0
        if row.running + row.waiting > 1 and after.start_s > row.start_s + row.step_s:
            # A gap is allowed only where everybody had finished: then all pages are used by the newcomer alone.
            assert after.running == 1
    assert all(row.prefill_tokens + row.num_decode <= SMALL.max_batch_tokens for row in engine.trace)
    assert all(row.used_pages <= engine.num_pages for row in engine.trace)


def test_same_calls_same_times():
    one, two = (serve(build(), random_arrivals(3)) for _ in range(2))
    assert one == two
    slow = serve(build(is_fast=False), random_arrivals(3))
    assert one == slow


def test_littles_law_on_a_long_stable_run():
    engine = build(EngineFacts(100, 1000, 4096, max_batch_tokens=256, max_seqs=64), keep_trace=True)
    done = serve(engine, random_arrivals(5, n=3000, gap_s=0.08))
    end_s = max(completion.finished_s for completion in done)
    in_system = sum(row.step_s * (row.running + row.waiting) for row in engine.trace) / end_s
    rate = len(done) / end_s
    mean_delay_s = float(np.mean([completion.delay_s for completion in done]))
    assert in_system == pytest.approx(rate * mean_delay_s, rel=0.05)


def test_one_token_requests_one_at_a_time_are_an_m_d_1_queue():
    # Service takes 0.01 s; at utilisation 0.6 the mean wait is rho / (2 (1 - rho)) * service = 0.0075 s.
    cost = CostModel((0, 1), (0.01, 0.01))
    engine = build(EngineFacts(100, 1000, 1600, max_batch_tokens=8, max_seqs=1), cost)
    rng = np.random.default_rng(7)
    times = np.cumsum(rng.exponential(0.01 / 0.6, 60_000))
    done = serve(engine, [(float(t), 8, 1) for t in times])
    wait_s = float(np.mean([completion.delay_s for completion in done])) - 0.01
    assert wait_s == pytest.approx(0.0075, rel=0.05)


def test_promises_count_what_is_still_owed():
    engine = build()
    seen = []

    def look():
        seen.append((engine.free_tokens(), engine.promised_tokens(), engine.load()))

    # 10 prompt + 100 answer tokens: 7 pages at most. Two calls: one admitted (holds 1 page, owes 6), one not yet (owes 7).
    engine.call_at(0.0, lambda: engine.submit(Call(prompt(10), 100)))
    engine.call_at(0.001, lambda: engine.submit(Call(prompt(10), 100)))
    engine.call_at(0.0015, look)
    engine.run()
    (free, promised, load), total = seen[0], 64 * 16
    assert free == total - 16
    assert promised == (6 + 7) * 16
    assert (load.running, load.waiting, load.prefill_tokens, load.decode_tokens) == (1, 1, 20, 200)


def test_a_burst_never_promises_more_than_the_pool_if_the_promises_are_kept():
    engine = build()
    taken = []

    def arrive(index):
        room = engine.free_tokens() - engine.promised_tokens()
        if room >= 112:  # 7 pages
            taken.append(index)
            engine.submit(Call(prompt(60), 52))

    for index in range(50):
        engine.call_at(0.0, lambda index=index: arrive(index))
    engine.run()
    assert len(taken) == 9  # 64 pages // 7
    assert all(row.preempted == 0 for row in engine.trace)


def test_callbacks_submit_within_the_same_instant():
    engine = build()
    stages = []

    def reduce(first):
        stages.append(first)
        engine.submit(Call(prompt(20), 3)).on_done(stages.append)

    engine.call_at(0, lambda: engine.submit(Call(prompt(30), 4)).on_done(reduce))
    engine.run()
    assert stages[1].submitted_s == stages[1].started_s == stages[0].finished_s


def test_stop_early_and_log_probabilities_are_replayed():
    engine = build(answers=lambda call: Answer((7, 2), (-0.1, -0.2)))
    (done,) = serve(engine, [(0, 5, 30)])
    assert done.tokens == (7, 2)
    assert done.logprobs == (-0.1, -0.2)
    assert engine.iterations == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Call(prompt(990), 20), "exceed the model's context of 1000"),
        (Call(prompt(5), 3, tag="x"), "the replayed answer has 4 tokens; 1 to 3"),
    ],
)
def test_impossible_calls_are_refused(call, message):
    engine = build(answers=lambda call: Answer((1, 2, 3, 4)))
    with pytest.raises(ConfigError, match=message):
        engine.submit(call)


def test_pool_too_small_for_a_call():
    engine = build(dataclasses.replace(SMALL, pool_tokens=320))
    with pytest.raises(ConfigError, match="the pool has 20"):
        engine.submit(Call(prompt(300), 21))
    (done,) = serve(engine, [(0, 300, 20)])
    assert done.error is None


def test_an_exception_of_a_callback_comes_out():
    engine = build()
    engine.call_at(0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.run()


# --- gang admission ---


def gang_calls(engine, groups, size=4, prefix=32, length=64, answer=8):
    """At time 0 each group submits its mappers, interleaved; returns completions by group."""
    done = {name: [] for name in groups}

    def start():
        for index in range(size):
            for number, name in enumerate(groups):
                ids = prompt(prefix, 1 + number) + prompt(length - prefix, 50 + index)
                call = Call(ids, answer, name, group=name, service="throughput", prefix_tokens=prefix)
                engine.submit(call).on_done(done[name].append)

    engine.call_at(0, start)
    return done


def test_gang_admits_the_calls_of_a_group_together():
    facts = EngineFacts(100, 1000, 20 * 16, max_batch_tokens=64, max_seqs=16)
    starts = {}
    for order in ("fcfs", "gang"):
        engine = build(facts, order=order)
        done = gang_calls(engine, ("a", "b"))
        engine.run()
        starts[order] = {name: sorted(c.started_s for c in group) for name, group in done.items()}
    # First come, first served mixes the groups: b begins before all of a have begun.
    assert starts["fcfs"]["b"][0] < starts["fcfs"]["a"][-1]
    assert len(set(starts["gang"]["a"])) == 1
    assert len(set(starts["gang"]["b"])) == 1


def test_a_shared_prefix_is_computed_and_kept_once():
    facts = EngineFacts(100, 1000, 60 * 16, max_batch_tokens=64, max_seqs=16)
    engine = build(facts, order="gang", keep_trace=True)
    gang_calls(engine, ("a",))
    engine.call_at(0.004, engine.check)
    engine.run()
    # 32 tokens once, then 4 x 32; pages: 2 shared + 4 x ceil((64 + 7 - 32) / 16) = 2 + 4 x 3 at the end.
    assert sum(row.prefill_tokens for row in engine.trace) == 32 + 4 * 32
    assert max(row.used_pages for row in engine.trace) == 14
    assert engine.free_tokens() == 60 * 16


def test_a_group_larger_than_the_pool_is_admitted_piece_by_piece():
    facts = EngineFacts(100, 1000, 10 * 16, max_batch_tokens=64, max_seqs=16)
    engine = build(facts, order="gang")
    done = gang_calls(engine, ("a",), size=8)
    engine.run()
    assert len(done["a"]) == 8


def test_deeper_stages_go_first():
    facts = EngineFacts(100, 1000, 6 * 16, max_batch_tokens=64, max_seqs=1)
    engine = build(facts, order="gang")
    finished = []

    def start():
        for depth, service, tag in ((0, "throughput", "map"), (0, "latency", "stuff"), (1, "latency", "reduce")):
            call = Call(prompt(20), 4, tag, depth=depth, service=service)
            engine.submit(call).on_done(lambda completion: finished.append(completion.call.tag))

    engine.call_at(0, start)
    engine.run()
    assert finished == ["reduce", "stuff", "map"]


def test_a_call_that_does_not_fit_is_passed_only_where_that_is_asked_for():
    # 6 pages. The first call holds 3 for its 40 tokens; the second wants 5 of the 3 left, the third 1.
    facts = EngineFacts(100, 1000, 6 * 16, max_batch_tokens=64, max_seqs=16)
    orders = {}
    for passes in (False, True):
        engine = build(facts, passes=passes)
        order = orders[passes] = []

        def start(engine=engine, order=order):
            for tag, tokens in (("first", 40), ("long", 70), ("short", 10)):
                engine.submit(Call(prompt(tokens), 6, tag)).on_done(
                    lambda done: order.append((done.started_s, done.call.tag))
                )

        engine.call_at(0, start)
        engine.call_at(0.004, engine.check)
        engine.run()
    assert [tag for _, tag in sorted(orders[False], key=lambda one: one[0])] == ["first", "long", "short"]
    assert [tag for _, tag in sorted(orders[True], key=lambda one: one[0])][-1] == "long"
    assert {at_s for at_s, tag in orders[True] if tag != "long"} == {0.0}
    with pytest.raises(ConfigError, match="passes=True is an exception"):
        SimOptions(order="gang", passes=True)


def test_recorded_iterations_take_the_place_of_the_cost_model():
    facts = EngineFacts(100, 1000, 60 * 16, max_batch_tokens=64, max_seqs=16)
    engine = SimEngine(facts, CostModel(cpu_s=1.0), lambda call: Answer((1,) * call.max_tokens), steps_s=[0.5, 0.25])
    handle = engine.submit(Call(prompt(10), 4))
    engine.run()
    # Four iterations: 0.5 and 0.25 s as recorded, then 1 s each.
    assert handle.completion.first_token_s == 0.5
    assert handle.completion.finished_s == pytest.approx(0.5 + 0.25 + 1 + 1)


@pytest.mark.parametrize(("name", "value"), [("admission", "v2"), ("order", "lifo"), ("gang_rule", "some")])
def test_unknown_options_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} '{value}' is not one of"):
        SimOptions(**{name: value})


def test_presets_say_that_they_are_modelled():
    for name in ("a40_7b", "a40x2_70b"):
        server = preset(name)
        assert server.cost.basis == "modelled"
    server = preset("a40_7b")
    # The sheet's table and line: 2048 tokens take 262 ms, about 7.7 K tokens per second of prefill.
    assert server.cost.linear(2048) == pytest.approx(0.262)
    assert server.cost.linear(3072) == pytest.approx((0.262 + 0.528) / 2)
    assert 2048 / server.cost.linear(2048) == pytest.approx(7700, rel=0.03)
    assert server.facts.bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert server.facts.pool_tokens == pytest.approx((48e9 * 0.9 - 4.2e9 - 1.5e9) / 131072, rel=0.01)
    assert preset("a40x2_70b").facts.bytes_per_token == 2 * 80 * 8 * 128 * 2
    with pytest.raises(ConfigError, match="no serving preset 'h100'"):
        preset("h100")
