"""Every experiment runs end to end on a tiny random model and says what it should; the harness scores what it is given."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cacheblend import harness
from cacheblend.api import EXPERIMENTS, METHODS, PAPER, WORKLOADS, Prefill, Request
from cacheblend.contract import check_method, check_workload
from cacheblend.engine import Engine
from cacheblend.experiments import prefill_flops
from cacheblend.harness import Judge, encode, mean_kl, run_batch, run_methods
from common import timing
from common.data.items import QAItem
from common.errors import ConfigError
from common.experiment import Run
from common.models.loading import wrap


@pytest.fixture(scope="module")
def reader():
    """A random model that can read text: the bundled tokenizer, untrained weights."""
    import importlib.resources

    folder = importlib.resources.files("common.models") / "bundled" / "small"
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        max_position_embeddings=2048,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return wrap(LlamaForCausalLM(config), tokenizer)


@pytest.fixture
def run_of(reader, monkeypatch):
    """`run_of(experiment, methods, ...)`: all rows of an experiment on two items."""
    monkeypatch.setattr(harness, "loaded_model", lambda spec: reader)

    def run(name, methods=(), workload="multi_chunk_qa", **knobs):
        workload_args = {"num_chunks": 3} if workload == "multi_chunk_qa" else {"num_chunks": 3, "chunk_tokens": 40}
        context = Run(
            paper="cacheblend",
            experiment=name,
            scale="smoke",
            seed=0,
            num_items=2,
            methods={method: METHODS.create(method) for method in methods},
            workload=WORKLOADS.create(workload, **workload_args) if workload else None,
            workload_name=workload or "",
            model={"name": "tiny", "source": "random", "device": "cpu"},
        )
        items = list(EXPERIMENTS.create(name, **knobs).rows(context))
        assert len({item.item for item in items}) == len(items)
        # What was finished is not done again.
        again = dataclasses.replace(context, finished=frozenset(item.item for item in items))
        assert not list(EXPERIMENTS.create(name, **knobs).rows(again))
        assert context.inputs["model"] == reader.fingerprint
        return [row for item in items for row in item.rows]

    return run


def values(rows, metric, **wanted):
    found = []
    for row in rows:
        has = {"method": row.method, **row.factors}
        if row.metric == metric and all(has.get(key) == value for key, value in wanted.items()):
            found.append(row.value)
    return found


def test_ttft_vs_quality_reports_every_method(run_of) -> None:
    names = METHODS.names()
    rows = run_of("ttft_vs_quality", names, repeats=2, warmup=0)
    for name in names:
        assert len(values(rows, "kl_to_full", method=name)) == 2
        assert len(values(rows, "ttft", method=name)) == (0 if name == "oracle" else 2)
        assert len(values(rows, "f1", method=name)) == 2
    assert max(values(rows, "kl_to_full", method="full_recompute")) < 1e-9
    assert max(values(rows, "kl_to_full", method="prefix_caching")) < 1e-4
    assert min(values(rows, "kl_to_full", method="full_reuse")) > 1e-3
    assert values(rows, "recomputed_share", method="full_recompute") == [1.0, 1.0]
    share = {name: sum(values(rows, "recomputed_share", method=name)) / 2 for name in names}
    assert share["full_reuse"] < share["cacheblend"] < share["prefix_caching"] < 1 < share["map_rerank"] * 1.5
    assert {row.basis for row in rows} == {"measured"}


def test_requests_without_answers_get_time_and_distance_only(run_of) -> None:
    rows = run_of("ttft_vs_quality", ["full_recompute", "cacheblend"], workload="random_tokens", repeats=1, warmup=0)
    assert {row.metric for row in rows} == {"ttft", "recomputed_share", "kl_to_full"}


def test_quality_vs_ratio_ends_at_full_recompute(run_of) -> None:
    names = ["full_reuse", "cacheblend", "random", "epic_first_k", "last_k", "oracle"]
    rows = run_of("quality_vs_ratio", names, ratios=(0.0, 0.3, 1.0))
    for name in names[1:]:
        assert len(values(rows, "kl_to_full", method=name, ratio=0.3)) == 2
        assert max(values(rows, "kl_to_full", method=name, ratio=1.0)) < 1e-4
        assert min(values(rows, "kl_to_full", method=name, ratio=0.0)) > 1e-3
    # A choice in advance that computes no layer in full, with nothing chosen, is full reuse.
    reuse = values(rows, "kl_to_full", method="full_reuse")
    assert values(rows, "kl_to_full", method="epic_first_k", ratio=0.0) == pytest.approx(reuse)


def test_equal_work_is_equal(run_of) -> None:
    rows = run_of("selectors_at_equal_work", ["cacheblend", "random", "epic_first_k"], shares=(0.5,))
    work = [
        values(rows, "recomputed_share", method=name, share=0.5) for name in ("cacheblend", "random", "epic_first_k")
    ]
    for other in work[1:]:
        assert other == pytest.approx(work[0], abs=0.02)
    with pytest.raises(ConfigError, match="no ratio"):
        run_of("selectors_at_equal_work", ["full_reuse"])


def test_quality_vs_chunks(run_of) -> None:
    rows = run_of("quality_vs_chunks", ["full_recompute", "full_reuse"], workload="random_tokens", num_chunks=(1, 3))
    assert max(values(rows, "kl_to_full", method="full_reuse", num_chunks=1)) < 1e-4  # one chunk is a prefix
    assert min(values(rows, "kl_to_full", method="full_reuse", num_chunks=3)) > 1e-3
    with pytest.raises(ConfigError, match="num_chunks"):
        run_of("quality_vs_chunks", workload=None)


def test_check_layer_effect(run_of) -> None:
    methods = ["full_recompute", "full_reuse", "cacheblend", "random"]
    rows = run_of("check_layer_effect", methods, check_layers=(1, 2), ratios=(0.15, 1.0))
    ours = [row for row in rows if row.method in ("cacheblend", "random") and row.metric == "kl_to_full"]
    assert {(row.method, row.factors["check_layer"]) for row in ours} == {
        (name, layer) for name in ("cacheblend", "random") for layer in (1, 2)
    }
    # Recomputing everything is a full prefill wherever the choice is made.
    assert all(row.value == pytest.approx(0, abs=1e-5) for row in ours if row.factors["ratio"] == 1.0)
    assert {row.method for row in rows} == set(methods)


def test_mask_effect(run_of) -> None:
    rows = run_of("mask_effect", ["cacheblend"], ratios=(0.5,))
    right, wrong = (values(rows, "kl_to_full", mask=mask) for mask in ("absolute", "bottom_right"))
    assert len(right) == len(wrong) == 2
    assert right != wrong


def test_deviations(run_of) -> None:
    rows = run_of("kv_deviation", quantiles=(0.0, 0.5, 1.0))
    for layer in (1, 2, 3):
        low, middle, high = (values(rows, "kv_deviation", layer=layer, token_share=q) for q in (0.0, 0.5, 1.0))
        assert all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
        assert all(0.15 <= share <= 1 for share in values(rows, "top_share", layer=layer))
    rows = run_of("rank_correlation")
    assert {row.factors["layer"] for row in rows} == {1, 2}
    assert all(-1 <= row.value <= 1 for row in rows)
    rows = run_of("deviation_by_offset", max_offset=10)
    assert {row.factors["offset_tokens"] for row in rows} == set(range(10))
    assert {row.factors["sink"] for row in rows} == {True, False}


def test_attention_deviation_falls_to_nothing(run_of) -> None:
    rows = run_of("attention_deviation", ["cacheblend", "epic_first_k"], ratios=(0.0, 1.0))
    assert values(rows, "attention_deviation", method="epic_first_k", ratio=0.0) == pytest.approx([1.0, 1.0])
    assert max(values(rows, "attention_deviation", ratio=1.0)) < 1e-3


def test_attention_map(run_of) -> None:
    rows = run_of("attention_map", bins=6, ratio=0.3)
    cross = {v: values(rows, "cross_chunk_mass", variant=v) for v in ("full_recompute", "full_reuse", "cacheblend")}
    assert cross["full_reuse"] == [0.0, 0.0]
    assert all(0 < c < f for c, f in zip(cross["cacheblend"], cross["full_recompute"], strict=True))
    total = sum(values(rows, "attention", variant="full_recompute", query_bin=5)) / 2
    assert 0.3 < total <= 1.0001  # the rest goes to BOS


def test_speed_vs_ratio_counts_operations_as_torch_does(run_of, reader) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    rows = run_of("speed_vs_ratio", ["full_reuse", "cacheblend"], workload="random_tokens", ratios=(0.15,), repeats=1)
    assert len(values(rows, "speedup_bound", method="cacheblend", ratio=0.15)) == 2
    assert values(rows, "speedup_formula", ratio=0.15)[0] < values(rows, "speedup_bound", method="full_reuse")[0]
    engine = Engine(reader)
    request = Request(tuple((5 + i,) * 100 for i in range(4)), (7,) * 9)
    engine.precompute(request)
    for name, tolerance in (("full_recompute", 0.01), ("prefix_caching", 0.03), ("cacheblend", 0.03)):
        with FlopCounterMode(display=False) as counter:
            prefill = METHODS.create(name).prefill(request, engine)
        by_operation = counter.get_flop_counts()["Global"]
        linear = sum(count for operation, count in by_operation.items() if operation is torch.ops.aten.mm)
        d_q, n = 32, 410
        expected = prefill_flops(engine, prefill.computed.report.rows_per_layer, request)
        attention = sum(
            rows * 4 * d_q * (n - prefill.computed.report.rows_per_layer[0] + n) / 2
            for rows in prefill.computed.report.rows_per_layer
        )
        assert linear == pytest.approx(expected - attention, rel=tolerance)


def test_sensitivity(run_of) -> None:
    rows = run_of(
        "sensitivity",
        ["full_recompute", "cacheblend"],
        workload=None,
        num_chunks=(2, 3),
        chunk_tokens=(20, 40),
        batches=(2, 3),
        repeats=1,
        warmup=0,
    )
    points = {tuple(row.factors[name] for name in ("panel", "num_chunks", "chunk_tokens", "batch")) for row in rows}
    singles = {("chunks", 2, 40, 1), ("chunks", 3, 40, 1), ("length", 2, 20, 1), ("length", 2, 40, 1)}
    assert points == singles | {("batch", 2, 40, 2), ("batch", 2, 40, 3)}
    assert {row.factors["panel"] for row in rows if row.metric == "throughput"} == {"batch"}
    shares = {row.value for row in rows if row.metric == "recomputed_share" and row.method == "full_recompute"}
    assert shares == {1.0}


def test_a_batch_waits_for_those_before_it(models) -> None:
    class Slow:
        def prefill(self, request: Request, engine: Engine) -> Prefill:
            clock["now"] += 1.0 if request.question == (5,) else 3.0
            return Prefill(engine.compute(request.question), 1)

    clock = {"now": 0.0}
    engine = Engine(models("llama"))
    requests = [Request((), (5,)), Request((), (6,)), Request((), (5,))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing.time, "perf_counter", lambda: clock["now"])
        outcome = run_batch(engine, requests, {"slow": Slow()}, warmup=1, repeats=2)["slow"]
    assert outcome.mean_ttft_s == pytest.approx((1 + 4 + 5) / 3)
    assert outcome.throughput_rps == pytest.approx(3 / 5)
    with pytest.raises(ConfigError, match="oracle"):
        run_batch(engine, requests, {"oracle": METHODS.create("oracle")})


def test_the_judge_by_hand(reader) -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln(2/3) = 0.1438
    p, q = (torch.tensor([[a, 1 - a]], dtype=torch.float64).log() for a in (0.5, 0.25))
    assert mean_kl(p, q) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert mean_kl(p, p) == 0
    sure = torch.tensor([[1.0, 0.0]], dtype=torch.float64).log()
    assert mean_kl(sure, p) == pytest.approx(math.log(2))
    engine = Engine(reader)
    item = QAItem("x/0", "single_fact", ("Anna lives in Brenn.",), "Where does Anna live?", ("Brenn",))
    request = encode(item, engine)
    answer = engine.decode(engine.truth(request), request.max_answer_tokens)
    from common.models.prompt_format import decode_answer

    text = decode_answer(engine.tokenizer, answer.ids) or "nothing"
    judged = Judge(engine, dataclasses.replace(request, answers=(text,)))
    assert judged.quality(engine.truth(request)) == ("f1", 1.0)
    assert judged.kl_to_full(engine.truth(request)) == 0


def test_encoding_tokenises_every_piece_alone(reader) -> None:
    engine = Engine(reader)
    item = QAItem("x/0", "f", ("One two.", "Three."), "Four?", ("five",), metric="exact_match", max_answer_tokens=3)
    both, first = encode(item, engine), encode(dataclasses.replace(item, chunks=("One two.",)), engine)
    assert both.chunks[0] == first.chunks[0]
    assert (both.metric, both.max_answer_tokens, both.answers) == ("exact_match", 3, ("five",))
    assert encode(both, engine) is both
    assert engine.ids(both) == (*engine.bos, *both.chunks[0], *both.chunks[1], *both.question)
    cut = encode(item, engine, chunk_tokens=4)
    assert max(map(len, cut.chunks)) <= 4


def test_running_text_is_cut_into_equal_chunks(reader, run_of) -> None:
    engine = Engine(reader)
    workload = WORKLOADS.create("continuation", num_chunks=3, chunk_tokens=10, question_tokens=4)
    (item,) = workload.items(np.random.default_rng(0), 1)
    request = workload.to_request(item, engine)
    assert [len(chunk) for chunk in request.chunks] == [10, 10, 10]
    assert len(request.question) == 4
    ids = engine.tokenizer.encode("\n\n".join(item.chunks), add_special_tokens=False)
    assert engine.ids(request)[len(engine.bos) :] == tuple(ids[:34])
    with pytest.raises(ConfigError, match="tokens, 34 are needed"):
        workload.to_request(dataclasses.replace(item, chunks=("Too short.",)), engine)
    rows = run_of("ttft_vs_quality", ["full_recompute", "full_reuse"], workload="continuation", repeats=1, warmup=0)
    assert {row.metric for row in rows} == {"ttft", "recomputed_share", "kl_to_full"}


def test_text_needs_a_tokenizer(models) -> None:
    with pytest.raises(ConfigError, match="random_tokens"):
        encode(QAItem("x/0", "f", ("One.",), "Two?", ()), Engine(models("llama")))


def test_outcomes_are_measured_and_counted(models, request_of) -> None:
    engine, request = Engine(models("llama")), request_of()
    outcomes = run_methods(
        engine, request, {name: METHODS.create(name) for name in ("full_recompute", "oracle")}, warmup=0, repeats=3
    )
    assert len(outcomes["full_recompute"].ttft_s) == 3
    assert all(seconds > 0 for seconds in outcomes["full_recompute"].ttft_s)
    assert outcomes["full_recompute"].tokens_computed == 45
    assert outcomes["oracle"].ttft_s == ()
    assert isinstance(outcomes["oracle"].prefill, Prefill)


@pytest.mark.parametrize("name", METHODS.names())
def test_methods_keep_the_contract(name: str) -> None:
    check_method(name)


@pytest.mark.parametrize("name", WORKLOADS.names())
def test_workloads_keep_the_contract(name: str) -> None:
    check_workload(name)


def test_the_paper_knows_its_parts() -> None:
    assert PAPER.name == "cacheblend"
    assert {"cacheblend", "full_recompute", "prefix_caching", "full_reuse"} <= set(PAPER.methods.names())
    assert "ttft_vs_quality" in PAPER.experiments
    for name in PAPER.experiments.names():
        assert PAPER.experiments.summary(name)
    for name in PAPER.methods.names():
        assert PAPER.methods.summary(name)
