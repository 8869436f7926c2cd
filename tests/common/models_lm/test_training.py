"""Training: the command's options, resuming, and that training learns."""

import dataclasses
import json
import re

import numpy as np
import pytest

from common.errors import ConfigError
from common.models import train as training
from common.models import training_data
from common.models.gates import BUNDLED
from common.models.training_data import Encoder, make_batch
from common.rng import for_component


@pytest.fixture(scope="module")
def encoder():
    from transformers import AutoTokenizer

    return Encoder(AutoTokenizer.from_pretrained(BUNDLED / "small"))


def test_options_are_read_and_typed():
    options = training.parse_options(["size=tiny", "out=x", "seed=3", "resume=true", "max_seconds=1.5"])
    assert (options.size, options.seed, options.resume, options.max_seconds) == ("tiny", 3, True, 1.5)


@pytest.mark.parametrize("argument", ["sise=small", "seed=one", "resume=maybe", "small"])
def test_a_bad_option_is_one_clear_line(argument):
    with pytest.raises(ConfigError) as caught:
        training.parse_options([argument])
    assert "\n" not in str(caught.value)
    assert argument.partition("=")[0] in str(caught.value)


def test_a_missing_folder_or_size_is_refused():
    with pytest.raises(ConfigError, match="out="):
        training.train(training.Options(size="tiny"))
    with pytest.raises(ConfigError, match="tiny, small, base"):
        training.train(training.Options(size="huge", out="x"))
    with pytest.raises(ConfigError, match="start_from"):
        training.train(training.Options(size="base", out="x"))


@pytest.mark.parametrize("name", [stage.name for stage in training.SHAPES["small"].stages])
def test_batches_supervise_what_they_say(encoder, name):
    stage = next(stage for stage in training.SHAPES["small"].stages if stage.name == name)
    for step in range(3):
        batch = make_batch(encoder, for_component(0, "test", step), stage.mix, stage.batch_tokens, 0.2)
        again = make_batch(encoder, for_component(0, "test", step), stage.mix, stage.batch_tokens, 0.2)
        assert np.array_equal(batch.ids_BT, again.ids_BT)
        assert batch.ids_BT.size <= stage.batch_tokens or len(batch.ids_BT) == 1
        covered = np.zeros_like(batch.answer_BT)
        for row, (families, spans) in enumerate(zip(batch.families, batch.spans, strict=True)):
            assert len(families) == len(spans)
            for family, (start, end) in zip(families, spans, strict=True):
                assert 0 < start < end < batch.ids_BT.shape[1]
                covered[row, start:end] = 1
                answer = batch.ids_BT[row, start + 1 : end + 1]
                assert encoder.pad not in answer
                if family in training._FAMILIES or family in ("roll", "pairs"):
                    assert batch.ids_BT[row, start] == encoder.answer
                    assert answer[-1] == encoder.eos
        assert np.array_equal(covered, batch.answer_BT)
        assert (batch.answer_BT * batch.text_BT).max() == 0.0


def test_pairs_are_answered_by_what_was_stated(encoder):
    """Oracle: read the pairs off the row and look every question up."""
    stage = next(s for s in training.SHAPES["small"].stages if s.name == "apart_4_700")
    small = set(encoder.small_word_ids)
    for step in range(6):
        batch = make_batch(encoder, for_component(1, "test", step), stage.mix, 1024, 0.0)
        for ids, families, spans in zip(batch.ids_BT.tolist(), batch.families, batch.spans, strict=True):
            stated = {}
            for start in range(1, len(ids)):
                if ids[start] == encoder.question or ids[start] == encoder.pad:
                    break
                if ids[start - 1] in (encoder.sep, encoder.bos):
                    end = ids.index(encoder.sep, start)
                    stated.setdefault(ids[start], ids[end - 1])
            for family, (start, _) in zip(families, spans, strict=True):
                asked = start
                while ids[asked] in small or ids[asked] == encoder.answer:
                    asked -= 1
                assert stated[ids[asked]] == ids[start + 1], family


def _fact(subject, attribute, value):
    from common.data.synthetic.scenes import Fact

    return Fact("woman", subject, attribute, "", value, (0,), 0, 0, False)


def test_what_a_part_does_not_say_is_unknown():
    from common.data.items import QueryProfile
    from common.data.synthetic.families import Question

    chain = (_fact("Anna", "employer", "Norvex"), _fact("Norvex", "base", "Kelby"))
    question = Question("multi_hop", "2", "Where?", "Kelby", (0, 1), QueryProfile(True, True, 2, (4, 12)), chain)
    whole = {("Anna", "employer", ""): "Norvex", ("Norvex", "base", ""): "Kelby"}
    assert training_data.asked_of_a_part(question, whole) == question
    part = training_data.asked_of_a_part(question, {("Anna", "employer", ""): "Norvex", ("Anna", "home", ""): "Yarm"})
    assert (part.answer, part.family, part.text) == ("unknown", "unanswerable", "Where?")
    # Shown otherwise than in the whole text: neither answer would be fair.
    assert training_data.asked_of_a_part(question, whole | {("Norvex", "base", ""): "Yarm"}) is None


def test_unknown_is_the_answer_only_where_the_shown_chunks_do_not_say(encoder):
    """Oracle: look every single-fact question of the last stage up in the row's own text."""
    stage = training.SHAPES["small"].stages[-1]
    mix = dataclasses.replace(
        stage.mix,
        roll_rate=0.0,
        copy_rate=0.0,
        compare_rate=0.0,
        noise_rate=0.0,
        lone_rate=1.0,
        reference_rate=0.0,
        absent_rate=0.7,
    )
    tokenizer = encoder._tokenizer
    answered = unknown = 0
    for step in range(4):
        batch = make_batch(encoder, for_component(2, "test", step), mix, 2048, 0.0)
        for ids, families, spans in zip(batch.ids_BT.tolist(), batch.families, batch.spans, strict=True):
            assert families.count("copy") == 0
            context = tokenizer.decode(ids[: ids.index(encoder.question)])
            instructed = any(context.startswith(f"<bos> {text}") for text in training_data.INSTRUCTIONS)
            assert context.count("<sep>") == 1 + instructed
            for family, (start, end) in zip(families, spans, strict=True):
                answer = tokenizer.decode(ids[start + 1 : end])
                if family == "single_fact":
                    answered += 1
                    assert answer in context
                elif family == "unanswerable":
                    unknown += 1
                    assert answer.strip() == "unknown"
    assert answered > 20
    assert unknown > 20


def test_a_row_asks_nothing_twice(encoder):
    mix = dataclasses.replace(
        training.SHAPES["small"].stages[-1].mix, roll_rate=0.0, copy_rate=0.0, compare_rate=0.0, absent_rate=0.0
    )
    for step in range(4):
        batch = make_batch(encoder, for_component(3, "test", step), mix, 2048, 0.0)
        for ids, spans in zip(batch.ids_BT.tolist(), batch.spans, strict=True):
            starts = [max(i for i in range(start) if ids[i] == encoder.question) for start, _ in spans]
            asked = [tuple(ids[one:start]) for one, (start, _) in zip(starts, spans, strict=True)]
            assert len(asked) == len(set(asked))


def test_comparisons_of_numbers_are_right(encoder):
    """Oracle: read the two numbers off the sentences that name the two subjects."""
    from common.data.synthetic import words
    from common.data.synthetic.scenes import Draw

    mix = training.SHAPES["small"].stages[-1].mix
    assert mix.compare_rate > 0.0
    names = {*words.WOMEN, *words.MEN, *words.PRODUCTS, *words.COMPANIES}
    answers = []
    for seed in range(20):
        row, spans, families, context = training_data._compare_row(encoder, Draw(np.random.default_rng(seed)), mix)
        assert set(families) == {"comparison"}
        sentences = encoder._tokenizer.decode(row[1 : context - 1]).split(". ")
        number = {}
        for sentence in sentences:
            found = re.findall(r"[A-Za-z]+|\d+", sentence)
            number[next(word for word in found if word in names)] = int(next(w for w in found if w.isdigit()))
        for start, end in spans:
            first = max(i for i in range(start) if row[i] == encoder.question)
            asked = [
                w for w in re.findall(r"[A-Za-z]+", encoder._tokenizer.decode(row[first + 1 : start])) if w in names
            ]
            answer = encoder._tokenizer.decode(row[start + 1 : end]).strip()
            assert len(asked) == 2
            assert answer == max(asked, key=number.__getitem__)
            answers.append(asked.index(answer))
    # The larger one is as often named first as second.
    assert 0.3 < np.mean(answers) < 0.7


def test_rewording_moves_loose_words_only():
    from common.data.synthetic.scenes import Draw

    text = "Anna's hobby is chess. As we know, she is at work for Norvex in the town of Kelby."
    loose = training_data._LOOSE_WORDS
    fixed = [word for word in text.split() if word.lower() not in loose]
    draw = Draw(np.random.default_rng(0))
    versions = [training_data.reworded(draw, text) for _ in range(300)]
    for version in versions:
        kept = [word for word in version.split() if word.lower() not in loose]
        assert kept == fixed
    lengths = {len(version.split()) - len(text.split()) for version in versions}
    assert min(lengths) < 0 < max(lengths)
    assert any(version != text and sorted(version.split()) == sorted(text.split()) for version in versions)  # a swap


def test_long_batches_stay_within_the_context(encoder):
    from common.models.tokenizer import CONTEXT_TOKENS

    stage = training.SHAPES["small"].stages[-1]
    mix = dataclasses.replace(
        stage.mix, long_rate=1.0, lone_rate=0.0, roll_rate=0.0, compare_rate=0.0, disorder_rate=0.0
    )
    lengths = []
    for step in range(12):
        batch = make_batch(encoder, for_component(4, "test", step), mix, stage.batch_tokens, 0.1)
        lengths.append(batch.ids_BT.shape[1])
    assert max(lengths) <= CONTEXT_TOKENS
    assert max(lengths) > 900


def test_the_time_left_counts_the_steps_of_this_run(encoder, tmp_path, capsys):
    """A run from a later stage starts at step 100,000; the time left once came out as "1 min" throughout."""
    shape = training.SHAPES["small"]
    trainer = training.Trainer(shape, training.build_model(shape, 2112, 0, 4), encoder, 0, "cpu")
    stage = next(stage for stage in shape.stages if stage.name == "reworded")
    trainer.step, trainer.stage_step, trainer.seconds = 100_100, 100, 200.0
    with (tmp_path / "log").open("w") as log:
        training._report(trainer, stage, {"answer_loss": 1.0, "text_loss": 1.0}, {}, log)
    # 2 s a step, and max_steps - 100 to go.
    minutes = -(-(stage.max_steps - 100) * 2 // 60)
    assert f"at most {minutes} min more" in capsys.readouterr().out


def test_a_later_stage_needs_weights_and_a_name(tmp_path):
    with pytest.raises(ConfigError, match="start_from"):
        training.train(training.Options(size="small", out=str(tmp_path), first_stage="broad"))
    with pytest.raises(ConfigError, match="broad, cool, instructed"):
        training.train(
            training.Options(size="small", out=str(tmp_path), first_stage="borad", start_from=str(BUNDLED / "small"))
        )


def _final(path):
    return [json.loads(line) for line in (path / "training_log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_tiny_training_learns_resumes_and_reproduces_its_score(tmp_path):
    whole = training.train(training.Options(size="tiny", out=str(tmp_path / "whole"), save_every=50))
    rows = _final(tmp_path / "whole")
    assert rows[0]["accuracy"]["restated"] < 0.3
    # Recorded when this test was written: 1.00 with seed 0. Another CPU rounds otherwise, so not to the digit.
    assert rows[-1]["accuracy"]["restated"] > 0.85
    assert whole["steps"] == rows[-1]["step"]

    # Stop early, go on: the same data and the same optimizer state give the same losses.
    stopped = tmp_path / "stopped"
    training.train(training.Options(size="tiny", out=str(stopped), save_every=50, max_seconds=2.0))
    training.train(training.Options(size="tiny", out=str(stopped), resume=True))
    again = _final(stopped)
    assert [row["step"] for row in again] == [row["step"] for row in rows]
    assert again[-1]["answer_loss"] == pytest.approx(rows[-1]["answer_loss"], rel=0.05, abs=0.01)


def test_growing_between_stages_keeps_what_was_learnt(encoder):
    import torch

    shape = training.SHAPES["small"]
    trainer = training.Trainer(shape, training.build_model(shape, 2112, 0, 4), encoder, 0, "cpu")
    ids = torch.arange(300, 340)[None]
    with torch.no_grad():
        before = trainer.master(ids).logits
        trainer.stage = len(shape.stages) - 1
        trainer.enter_stage()
        after = trainer.master(ids).logits
    assert trainer.master.config.num_hidden_layers == shape.layers
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def test_the_training_attention_is_the_librarys(encoder):
    import torch

    shape = training.SHAPES["small"]
    model = training.build_model(shape, 2112, 0, 4)
    trainer = training.Trainer(shape, model, encoder, 0, "cpu")
    ids = torch.randint(300, 900, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        library = model(ids).logits
        model.config._attn_implementation = "ninefold_batched"
        ours = model(ids).logits
    assert trainer.worker.config._attn_implementation == "ninefold_batched"
    torch.testing.assert_close(ours, library, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 150])
def test_the_training_attentions_gradients_are_the_librarys(length):
    import torch

    generator = torch.Generator().manual_seed(length)
    query, key, value = (
        torch.randn(2, heads, length, 8, dtype=torch.float64, generator=generator).requires_grad_()
        for heads in (4, 2, 2)
    )
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    ours, _ = training._batched_attention(None, query, key, value, None, 8**-0.5)
    weights = torch.randn(wanted.shape, dtype=torch.float64, generator=generator)
    expected = torch.autograd.grad((wanted * weights).sum(), (query, key, value))
    found = torch.autograd.grad((ours.transpose(1, 2) * weights).sum(), (query, key, value))
    torch.testing.assert_close(ours.transpose(1, 2), wanted)
    for one, other in zip(found, expected, strict=True):
        # Sums over blocks are kept in fp32.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attribute", range(23))
def test_rolls_never_ask_for_more_values_than_there_are(encoder, attribute):
    """A roll of 24 months once looked for a thirteenth month for ever."""
    from common.data.synthetic.scenes import Draw

    roll = training_data._ROLLS[attribute % len(training_data._ROLLS)]
    mix = dataclasses.replace(training.SHAPES["small"].stages[-1].mix, num_pairs=(24, 24))
    original = training_data._ROLLS
    try:
        training_data._ROLLS = (roll,)
        row, spans, families, _ = training_data._roll_row(encoder, Draw(np.random.default_rng(0)), mix)
    finally:
        training_data._ROLLS = original
    assert len(spans) == len(families)
    assert row
