"""Training: the command's options, resuming, and that training learns."""

import json

import numpy as np
import pytest

from common.errors import ConfigError
from common.models import train as training
from common.models.training_data import Encoder, make_batch
from common.rng import for_component


@pytest.fixture(scope="module")
def encoder():
    from transformers import AutoTokenizer

    from common.models.gates import BUNDLED

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


@pytest.mark.parametrize("attribute", range(23))
def test_rolls_never_ask_for_more_values_than_there_are(encoder, attribute):
    """A roll of 24 months once looked for a thirteenth month for ever."""
    import dataclasses

    from common.data.synthetic.scenes import Draw
    from common.models import training_data

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
