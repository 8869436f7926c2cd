"""TransformersEngine: the same text as generate(), the same protocol as the simulator, honest books."""

import time

import numpy as np
import pytest

from common.errors import ConfigError
from common.serving.api import Answer, Call, Engine, EngineFacts
from common.serving.cost import CostModel
from common.serving.in_process import TransformersEngine
from common.serving.simulator import SimEngine


def build(loaded, **sizes):
    sizes = {"pool_tokens": 2048, "max_batch_tokens": 128, "max_seqs": 16} | sizes
    return TransformersEngine(loaded, time.process_time, None, **sizes)


def random_calls(loaded, seed, n, longest=200, answer=12):
    rng = np.random.default_rng(seed)
    return [
        Call(
            tuple(int(t) for t in rng.integers(6, loaded.config.vocab_size, int(rng.integers(2, longest)))),
            int(rng.integers(1, answer)),
            tag=str(index),
            stop_ids=(int(loaded.config.eos_token_id),),
        )
        for index, _ in enumerate(range(n))
    ]


def serve(engine, calls, gap_s=0.003):
    handles = []
    for index, call in enumerate(calls):
        engine.call_at(index * gap_s, lambda call=call: handles.append(engine.submit(call)))
    engine.run()
    return [handle.completion for handle in handles]


def generate(loaded, call):
    import torch

    ids = torch.tensor([call.prompt_ids])
    out = loaded.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=call.max_tokens,
        do_sample=False,
        eos_token_id=list(call.stop_ids),
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    tokens = tuple(out.sequences[0, len(call.prompt_ids) :].tolist())
    scores = [float(torch.log_softmax(s[0], -1)[t]) for s, t in zip(out.scores, tokens, strict=True)]
    return tokens, scores


def test_tokens_and_log_probabilities_are_those_of_generate(small):
    calls = random_calls(small, 0, 8)
    engine = build(small)
    assert isinstance(engine, Engine)
    done = serve(engine, calls)
    engine.close()
    assert engine.basis == "measured"
    for call, completion in zip(calls, done, strict=True):
        tokens, scores = generate(small, call)
        assert completion.tokens == tokens
        np.testing.assert_allclose(completion.logprobs, scores, atol=2e-4)
        assert completion.error is None
        assert completion.submitted_s <= completion.started_s < completion.first_token_s <= completion.finished_s


def test_the_same_calls_give_the_same_tokens_on_the_simulator(tiny):
    calls = random_calls(tiny, 1, 12)
    answers = {}
    engine = build(tiny)
    for completion in serve(engine, calls):
        answers[completion.call] = Answer(completion.tokens, completion.logprobs)
    facts = engine.facts
    engine.close()
    again = build(tiny)
    live = serve(again, calls, gap_s=0.0)  # another order of arrival, other batches
    again.close()
    simulated = SimEngine(facts, CostModel(cpu_s=0.01), answers.__getitem__)
    replayed = serve(simulated, calls)
    assert [c.tokens for c in replayed] == [c.tokens for c in live]
    np.testing.assert_allclose(
        np.concatenate([c.logprobs for c in replayed]), np.concatenate([c.logprobs for c in live]), atol=1e-4
    )


def test_memory_is_counted_in_pages_and_promises_in_full(tiny):
    engine = build(tiny)
    seen = []

    def look():
        seen.append((engine.free_tokens(), engine.promised_tokens(), engine.load()))

    look()
    # 40 + 30 tokens: 5 pages at most; after the first iteration 3 are held. The second call is queued meanwhile.
    engine.submit(Call((7,) * 40, 30))
    engine.step()
    engine.submit(Call((8,) * 100, 28))
    look()
    engine.run()
    look()
    engine.close()
    assert seen[0][:2] == seen[2][:2] == (2048, 0)
    assert seen[1][0] == 2048 - 3 * 16
    assert seen[1][1] == (2 + 8) * 16
    load = seen[1][2]
    assert (load.running, load.waiting, load.prefill_tokens, load.decode_tokens) == (1, 1, 100, 29 + 28)


def test_recomputed_calls_keep_their_answers(tiny):
    calls = [Call(tuple(range(6 + i, 106 + i)), 60) for i in range(4)]
    roomy = build(tiny)
    expected = [c.tokens for c in serve(roomy, calls, 0.0)]
    roomy.close()
    short = build(tiny, pool_tokens=25 * 16)
    done = serve(short, calls, 0.0)
    short.close()
    assert sum(completion.preemptions for completion in done) > 0
    assert [completion.tokens for completion in done] == expected
    assert all(len(completion.logprobs) == 60 for completion in done)


def test_idle_time_is_waited_for_or_skipped(tiny):
    waited = []
    now = [0.0]

    def sleep(seconds):
        waited.append(seconds)
        now[0] += seconds

    engine = TransformersEngine(tiny, lambda: now[0], sleep, pool_tokens=512, max_batch_tokens=64, max_seqs=4)
    seen = []
    engine.call_at(2.5, lambda: seen.append(engine.now()))
    engine.run()
    engine.close()
    assert seen == [2.5]
    assert waited == [2.5]
    skipping = TransformersEngine(tiny, lambda: 0.0, None, pool_tokens=512, max_batch_tokens=64, max_seqs=4)
    skipping.call_at(2.5, lambda: seen.append(skipping.now()))
    skipping.run()
    skipping.close()
    assert seen == [2.5, 2.5]


def test_what_was_due_during_an_iteration_comes_before_what_its_end_leads_to(tiny):
    ticks = iter(range(1000))
    engine = TransformersEngine(
        tiny, lambda: float(next(ticks)), None, pool_tokens=512, max_batch_tokens=64, max_seqs=4, keep_trace=True
    )
    seen = []

    def second(_):
        seen.append("second stage")

    engine.submit(Call((7,) * 20, 1)).on_done(second)
    # The clock advances with every look, so that this falls into the only iteration.
    engine.call_at(3.5, lambda: seen.append("arrival"))
    engine.run()
    trace = engine.trace
    engine.close()
    assert seen == ["arrival", "second stage"]
    assert [(step.prefill_tokens, step.num_decode) for step in trace] == [(20, 0)]
    assert trace[0].seconds > 0


def test_bad_calls_and_closed_engines(tiny):
    engine = build(tiny, pool_tokens=128)
    with pytest.raises(ConfigError, match="token 99999 is not one of the model's 1024"):
        engine.submit(Call((1, 99999), 3))
    with pytest.raises(ConfigError, match="the pool has 8"):
        engine.submit(Call((1,) * 120, 20))
    engine.close()
    engine.close()
    with pytest.raises(ConfigError, match="was closed"):
        engine.submit(Call((1,), 1))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"pool_tokens": 8, "page_tokens": 16}, "a pool of 8 tokens holds no page of 16"),
        ({"max_batch_tokens": 4, "max_seqs": 8}, "max_batch_tokens=4 is less than max_seqs=8"),
    ],
)
def test_bad_sizes(tiny, sizes, message):
    with pytest.raises(ConfigError, match=message):
        build(tiny, **sizes)


def test_facts_of_the_model(small):
    engine = build(small)
    facts = engine.facts
    engine.close()
    assert isinstance(facts, EngineFacts)
    config = small.config
    head = config.hidden_size // config.num_attention_heads
    assert facts.bytes_per_token == 2 * config.num_hidden_layers * config.num_key_value_heads * head * 4
    assert facts.context_tokens == config.max_position_embeddings
