"""map_rerank, stuff, map_reduce: what they ask, and what they make of the answers, the odd ones included."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.serving.api import Answer
from ragserve.api import Query, RagConfig
from ragserve.prompts import Prompts, is_nothing, parse_scored
from ragserve.synthesis import NO_ANSWER, SynthesisSettings, confidence, max_chunks, synthesise, token_costs

CHUNKS = ("Anna lives in Marlow.", "Adam lives in Kelby.", "The Aero costs 24 dollars.", "Anna is 30 years old.")
QUERY = Query("q/0", "Where does Anna live?", ("Marlow",), max_answer_tokens=8)
SETTINGS = SynthesisSettings(2048)


@pytest.fixture(scope="module")
def prompts(loaded):
    return Prompts(loaded.tokenizer)


def said(prompts, text, logprob=-0.5):
    """What a model would have generated, with its end token."""
    ids = prompts.tokenizer.encode(" " + text, add_special_tokens=False) if text else []
    tokens = (*ids, *prompts.stop_ids)
    return Answer(tokens, (logprob,) * len(tokens))


def run(prompts, config, replies, settings=SETTINGS, query=QUERY, chunks=CHUNKS):
    """Drive a synthesis with scripted replies per stage; returns the stages' calls and the result."""
    steps = synthesise(prompts, query, chunks, config, settings, tag="t")
    stages = [next(steps)]
    for reply in replies:
        try:
            stages.append(steps.send(reply))
        except StopIteration as done:
            return stages, done.value
    raise AssertionError("the synthesis wants another stage")


def test_stuff_shows_all_chunks_in_retrieval_order(prompts):
    stages, result = run(prompts, RagConfig("stuff", 3), [[said(prompts, "Marlow")]])
    ((call,),) = stages
    text = prompts.tokenizer.decode(call.prompt_ids)
    assert [text.index(chunk) for chunk in CHUNKS[:3]] == sorted(text.index(chunk) for chunk in CHUNKS[:3])
    assert CHUNKS[3] not in text
    assert call.max_tokens == 8
    assert call.stop_ids == prompts.stop_ids
    assert (result.text, result.num_calls, result.num_notes) == ("Marlow", 1, 3)
    ((call,),), _ = run(prompts, RagConfig("stuff", 3), [[said(prompts, "x")]], SynthesisSettings(2048, best_last=True))
    text = prompts.tokenizer.decode(call.prompt_ids)
    assert text.index(CHUNKS[0]) > text.index(CHUNKS[2])


def test_map_rerank_takes_the_most_confident(prompts):
    replies = [said(prompts, "unknown", -0.01), said(prompts, "Kelby", -0.9), said(prompts, "Marlow", -0.2)]
    (calls,), result = run(prompts, RagConfig("map_rerank", 3), [replies])
    assert len(calls) == 3
    assert {call.service for call in calls} == {"throughput"}
    # the surest is "unknown", which abstains
    assert (result.text, result.num_notes) == ("Marlow", 2)
    assert result.confidence == pytest.approx(-0.2)


def test_confidence_does_not_punish_length(prompts):
    short, long = said(prompts, "Marlow", -0.4), said(prompts, "Anna lives in Marlow with Adam", -0.3)
    assert confidence(long) > confidence(short)
    assert confidence(Answer((1,), ())) == float("-inf")


def test_ties_go_to_the_better_retrieved_chunk(prompts):
    _, result = run(prompts, RagConfig("map_rerank", 2), [[said(prompts, "Marlow"), said(prompts, "Kelby")]])
    assert result.text == "Marlow"


@pytest.mark.parametrize("synthesis", ["map_rerank", "map_reduce"])
def test_all_chunks_without_an_answer(prompts, synthesis):
    config = RagConfig(synthesis, 2, 20 if synthesis == "map_reduce" else 0)
    nothing = [said(prompts, "unknown"), said(prompts, "")]
    replies = [nothing] if synthesis == "map_rerank" else [nothing, [said(prompts, "")]]
    stages, result = run(prompts, config, replies)
    assert result.text == NO_ANSWER
    assert result.num_notes == 0
    if synthesis == "map_reduce":  # the reducer is asked all the same, with a context that says so
        assert "unknown" in prompts.tokenizer.decode(stages[1][0].prompt_ids)


def test_map_reduce_drops_what_says_nothing(prompts):
    replies = [[said(prompts, "Anna lives in Marlow."), said(prompts, "unknown"), said(prompts, "NONE")]]
    stages, result = run(prompts, RagConfig("map_reduce", 3, 20), [*replies, [said(prompts, "Marlow")]])
    mappers, (reducer,) = stages
    assert [call.max_tokens for call in mappers] == [20, 20, 20]
    assert {call.depth for call in mappers} == {0}
    assert reducer.depth == 1
    text = prompts.tokenizer.decode(reducer.prompt_ids)
    assert "Anna lives in Marlow." in text
    assert "unknown" not in text
    assert "NONE" not in text
    assert (result.text, result.num_notes, result.num_calls) == ("Marlow", 1, 4)


def test_summaries_that_are_too_long_are_collapsed(prompts):
    settings = SynthesisSettings(70)
    long = "Anna lives in Marlow and Adam lives in Kelby and the Aero costs dollars."
    config = RagConfig("map_reduce", 4, 20)
    stages, result = run(
        prompts,
        config,
        [[said(prompts, long)] * 4, [said(prompts, "Anna lives in Marlow.")] * 2, [said(prompts, "Marlow")]],
        settings,
    )
    assert [len(stage) for stage in stages] == [4, 2, 1]
    assert [stage[0].depth for stage in stages] == [0, 1, 2]
    assert all(len(call.prompt_ids) + call.max_tokens <= 70 for stage in stages for call in stage)
    assert (result.text, result.num_calls) == ("Marlow", 7)


def test_nothing_is_truncated_silently(prompts):
    with pytest.raises(ConfigError, match=r"exceed the model's context of 40"):
        next(synthesise(prompts, QUERY, CHUNKS, RagConfig("stuff", 4), SynthesisSettings(40)))
    with pytest.raises(ConfigError, match="wants more than the 4 chunks"):
        synthesise(prompts, QUERY, CHUNKS, RagConfig("stuff", 5), SETTINGS)


def test_one_answer_for_two_calls_is_refused(prompts):
    steps = synthesise(prompts, QUERY, CHUNKS, RagConfig("stuff", 2), SETTINGS)
    next(steps)
    with pytest.raises(ValueError, match="not enough values"):
        steps.send([])


# ------------------------------------------------------------------------------------------------------ LangChain flavour


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Marlow\nScore: 80", ("Marlow", 80)),
        ("Score: 10\nMarlow\nScore: 90", ("Score: 10\nMarlow", 90)),  # the last one counts
        ("Marlow", ("Marlow", 0)),  # forgotten: 0, no error
        ("Marlow\nScore: high", ("Marlow\nScore: high", 0)),
        ("Marlow score=70", ("Marlow", 70)),
        ("Marlow\nScore: 250", ("Marlow", 100)),
        ("Marlow\nScore: -5", ("Marlow", 0)),
        ("Marlow\nScore: 99999999999999", ("Marlow", 100)),
        ("", ("", 0)),
    ],
)
def test_scores_are_parsed_from_the_last_line(text, expected):
    assert parse_scored(text) == expected


@given(st.text(max_size=60))
def test_parsing_never_raises(text):
    answer, score = parse_scored(text)
    assert 0 <= score <= 100
    assert isinstance(is_nothing(answer), bool)


def test_map_rerank_by_scores(prompts):
    settings = SynthesisSettings(2048, rerank="langchain")
    replies = [said(prompts, "Marlow Score: 40"), said(prompts, "Kelby Score: 90"), said(prompts, "Aero")]
    (calls,), result = run(prompts, RagConfig("map_rerank", 3), [replies], settings)
    assert (result.text, result.confidence) == ("Kelby", 90)
    assert calls[0].max_tokens == 16  # eight for the answer, eight for the score
    assert "Score: <int>" in prompts.tokenizer.decode(calls[0].prompt_ids)


@pytest.mark.parametrize("text", ["unknown", "NONE", "None.", "Not in this chunk.", "", "I don't know"])
def test_ways_to_say_nothing(text):
    assert is_nothing(text)


def test_an_answer_is_something():
    assert not is_nothing("none of them, Marlow")
    assert not is_nothing("Norvex")


def test_token_counts_are_those_of_the_prompts(prompts):
    costs = token_costs(prompts, QUERY, 12, 4096, SETTINGS)
    for config in (RagConfig("stuff", 2), RagConfig("map_rerank", 2), RagConfig("map_reduce", 2, 20)):
        for call in next(synthesise(prompts, QUERY, CHUNKS, config, SETTINGS)):
            chunks = 2 if config.synthesis == "stuff" else 1
            assert len(call.prompt_ids) <= costs.query + 12 * chunks
    # 2048 - q - a tokens hold so many chunks of 12
    assert max_chunks(costs, 500, 2048) == (2048 - costs.query - 8) // 12
    assert max_chunks(costs, 3, 2048) == 3
