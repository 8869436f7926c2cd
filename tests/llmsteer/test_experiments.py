"""Every experiment at a small size, without the runner; the command line from end to end."""

import pytest
import torch

from common.experiment import Run
from llmsteer import __main__ as command_line
from llmsteer.api import EXPERIMENTS, METHODS, WORKLOADS
from llmsteer.harness import loaded_model
from tests.llmsteer.tiny_models import build

QUICK = {"profile_contexts": 1, "keep_layers": 1, "keep_heads": 2, "alphas": (3.0,)}
FIXED = {"fixed_heads": ((0, 1), (2, 3)), "repeats": 1, "warmup": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A random model with the bundled tokenizer, as a folder."""
    path = tmp_path_factory.mktemp("model")
    build("llama_gqa", vocab_size=len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    yield path
    loaded_model.cache_clear()


def run_of(folder, experiment, methods, tmp_path, workload="reused_contexts", **knobs):
    settings = {"name": "tiny", "source": "local", "path": str(folder), "device": "cpu"}
    made = WORKLOADS.create(workload, **knobs) if workload else None
    return Run(
        "llmsteer",
        experiment,
        "smoke",
        0,
        2,
        {name: METHODS.create(name) for name in methods},
        made,
        workload or "",
        model=settings,
        cache_dir=tmp_path,
    )


SMALL = {"num_chunks": 5, "num_queries": 2}


@pytest.mark.parametrize(
    ("experiment", "knobs", "methods", "metrics"),
    [
        (
            "quality_vs_delay",
            QUICK | {"repeats": 1, "warmup": 0},
            ["small", "llmsteer", "autopasta"],
            {"f1", "calls", "forwarded_tokens", "request_delay"},
        ),
        ("query_dependence", QUICK, ["llmsteer", "llmsteer_query_dependent"], {"f1", "calls", "forwarded_tokens"}),
        ("open_choices", QUICK, [], {"f1", "calls", "forwarded_tokens"}),
        ("sweeps", QUICK | {"sweep_alphas": (2.0,), "sweep_k": (8,)}, [], {"f1", "calls", "forwarded_tokens"}),
        ("quality_vs_length", QUICK | {"num_chunks": (5, 6)}, ["small", "llmsteer"], {"f1"}),
        ("head_profile", QUICK, [], {"gain", "evaluations"}),
        ("selected_tokens", {"k": 8}, [], {"precision", "recall", "base_rate", "jaccard", "num_selected"}),
    ],
)
def test_experiments_on_text(folder, tmp_path, experiment, knobs, methods, metrics):
    run = run_of(folder, experiment, methods, tmp_path, **SMALL)
    items = list(EXPERIMENTS.create(experiment, **knobs).rows(run))
    assert items
    for item in items:
        assert {row.metric for row in item.rows} == metrics
    again = list(EXPERIMENTS.create(experiment, **knobs).rows(run))
    timed = {"request_delay"}
    assert [[row for row in item.rows if row.metric not in timed] for item in items] == [
        [row for row in item.rows if row.metric not in timed] for item in again
    ]


def test_speed_experiments(folder, tmp_path):
    run = run_of(folder, "online_delay", ["small", "llmsteer", "autopasta"], tmp_path, "random_contexts", num_queries=1)
    (item, *_) = EXPERIMENTS.create("online_delay", context_tokens=(64,), **FIXED).rows(run)
    delays = {row.method for row in item.rows if row.metric == "request_delay"}
    assert delays == {"small", "llmsteer", "autopasta"}
    run = run_of(folder, "offline_cost", [], tmp_path, None)
    (item,) = EXPERIMENTS.create("offline_cost", lengths=(64,), **FIXED).rows(run)
    assert {"prefill_time", "reading_time", "preparation_time", "reading_over_prefill", "break_even"} <= {
        row.metric for row in item.rows
    }
    run = run_of(folder, "kernels", [], tmp_path, None)
    (item,) = EXPERIMENTS.create("kernels", lengths=(64,), repeats=1, warmup=0).rows(run)
    assert {row.factors["route"] for row in item.rows} == {
        "none",
        "bias",
        "channel",
        "channel_stored",
        "column_sums",
        "eager",
    }
    assert torch.isfinite(torch.tensor([row.value for row in item.rows])).all()


def test_command_line(folder, tmp_path, capsys):
    text = tmp_path / "context.txt"
    text.write_text("Norvex sells lamps. It is based in Farnham.\n\nAda lives in Frome. She is 40 years old.")
    model, out = str(folder), str(tmp_path / "prepared")
    assert command_line.main(["prepare", model, str(text), out, "--alpha", "3", "--k", "12"]) == 0
    assert command_line.main(["ask", model, out, "Where is Norvex based?", "--max-tokens", "3"]) == 0
    assert command_line.main(["explain", model, out]) == 0
    shown = capsys.readouterr().out
    assert "alpha 3, kv_and_live" in shown
    assert "[" in shown.partition("layer 0")[2]
    assert command_line.main(["prepare", model, str(text), out]) == 2
    assert command_line.main(["ask", model, str(tmp_path / "nothing"), "Where?"]) == 1
    assert command_line.main(["prepare", model, str(tmp_path / "none.txt"), out, "--alpha", "2"]) == 1
    errors = capsys.readouterr().err
    assert "heads=all needs alpha" in errors
    text.write_bytes(b"caf\xe9")
    assert command_line.main(["prepare", model, str(text), out, "--alpha", "2"]) == 1
    assert "not UTF-8" in capsys.readouterr().err
    assert "prepare" in errors
    assert "Traceback" not in errors


def test_steered_tokens_stand_in_brackets_and_characters_stay_whole():
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode(errors="replace")

    ids = list(" a b\u00e9c".encode())  # 7 bytes: the accented letter takes bytes 4 and 5
    assert command_line._bracketed(Bytes(), ids, {1, 5}) == " [a] b[\u00e9]c"
    assert command_line._bracketed(Bytes(), ids[:5], {4}).startswith(" a b[")
