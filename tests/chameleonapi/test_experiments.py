"""Every experiment yields rows at smoke size; the runner, the figures and the command line take them."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chameleonapi.api import EXPERIMENTS, METHODS, WORKLOADS
from chameleonapi.experiments import prevalence_weights
from common.errors import ConfigError
from common.experiment import Run

ROOT = Path(__file__).resolve().parents[2]
PLAN = yaml.safe_load((ROOT / "experiments" / "conf" / "paper" / "chameleonapi.yaml").read_text())["plan"]
# The others train for longer; the runner's slow test has them.
FAST = ["incorrect_decisions", "text_decisions", "loss_ablation", "parsing", "serving_load"]


def run_of(name, num_items=1, **changes):
    plan = PLAN[name]
    args = plan.get("args", {}) | plan.get("sizes", {}).get("smoke", {}).get("args", {}) | changes
    workload = plan.get("workload")
    run = Run(
        paper="chameleonapi",
        experiment=name,
        scale="smoke",
        seed=0,
        num_items=num_items,
        methods={method: METHODS.create(method) for method in plan.get("methods", [])},
        workload=WORKLOADS.create(workload) if workload else None,
        workload_name=workload or "",
    )
    return run, EXPERIMENTS.create(name, **args)


@functools.cache
def rows_of(name):
    run, experiment = run_of(name)
    return [row for item in experiment.rows(run) for row in item.rows]


@pytest.mark.parametrize("name", FAST)
def test_experiment_yields_rows(name):
    rows = rows_of(name)
    assert rows
    assert {row.method for row in rows if row.method} <= set(METHODS.names())
    assert all(0 <= row.value <= 1 for row in rows if row.metric.startswith("idr"))
    assert {row.basis for row in rows} == {"measured"}


def test_every_registered_experiment_has_a_plan():
    # Without a data root `real_images` can only fail: `experiment=all` must not have it.
    assert set(EXPERIMENTS.names()) == set(PLAN) | {"real_images"}


def values(rows, metric, **factors):
    return {
        row.method: row.value
        for row in rows
        if row.metric == metric and all(row.factors.get(name) == value for name, value in factors.items())
    }


@pytest.mark.parametrize("name", ["incorrect_decisions", "text_decisions"])
def test_code_and_summary_agree_and_errors_add_up(name):
    rows = rows_of(name)
    by_summary, by_code = values(rows, "idr", operating_point="fixed"), values(rows, "idr_by_code")
    assert set(by_summary) == set(PLAN[name]["methods"])
    assert by_code == pytest.approx(by_summary)
    assert set(values(rows, "agreement").values()) == {1.0}
    shares = [values(rows, "error_share", error=error) for error in ("missed", "wrong", "false")]
    for method, idr in by_summary.items():
        assert sum(share[method] for share in shares) == pytest.approx(idr)
    # Validation chose among thresholds that include the fixed one's neighbourhood: every method has all three points.
    for point in ("provider_wide", "tuned"):
        assert set(values(rows, "idr", operating_point=point)) == set(by_summary)


def test_rows_are_the_same_for_the_same_seed():
    run, experiment = run_of("text_decisions")
    again = [row for item in experiment.rows(run) for row in item.rows]
    assert again == rows_of("text_decisions")


def test_prevalence_weights_by_hand():
    import torch

    # Of four inputs one has no list: at prevalence 0.4 it weighs 0.4, the others 0.2 each.
    weights = prevalence_weights(torch.tensor([True, False, False, False]), 0.4)
    assert weights.tolist() == pytest.approx([0.4, 0.2, 0.2, 0.2])


def test_an_application_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from google.cloud import vision\n\n\n"
        "def look(content):\n"
        "    answer = vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=content))\n"
        "    return any('bottle' in l.description.lower() for l in answer.label_annotations)\n"
    )
    run, experiment = run_of("incorrect_decisions")
    methods = {"generic": METHODS.create("generic")}
    import dataclasses

    run = dataclasses.replace(run, methods=methods, workload=WORKLOADS.create("my_apps", folder=str(tmp_path)))
    (item,) = experiment.rows(run)
    assert item.item == "mine"
    assert not values(item.rows, "idr_by_code")  # it is parsed, not run
    with pytest.raises(ConfigError, match="folder"):
        list(WORKLOADS.create("my_apps").items(run.rng("x"), 1))


def command(*arguments):
    done = subprocess.run([sys.executable, "-m", "chameleonapi", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_command_line_trains_lists_and_rolls_back(tmp_path):
    from chameleonapi.__main__ import main

    app = tmp_path / "lamp.py"
    app.write_text(
        "import sys\nfrom google.cloud import language_v1\n"
        "client = language_v1.LanguageServiceClient()\n"
        "for c in client.classify_text(document={'content': sys.argv[1], 'type_': 'PLAIN_TEXT'}).categories:\n"
        "    if c.name in ('/Gaming', '/Music'):\n        print('party')\n        break\n"
        "else:\n    print('work')\n"
    )
    models = str(tmp_path / "models")
    train = ["train", str(app), "--models", models, "--task", "topics", "--examples", "200", "--epochs", "1"]
    assert main(train) == 0
    assert main([*train, "--seed", "1"]) == 0
    assert main(["models", "--models", models]) == 0
    assert main(["rollback", "lamp", "--models", models]) == 0
    assert main(["activate", "lamp", "2", "--models", models]) == 0
    assert main(["activate", "lamp", "7", "--models", models]) == 2
    facts = json.loads((tmp_path / "models" / "apps" / "lamp" / "2.json").read_text())["facts"]
    assert 0 <= facts["test_idr"] <= 1
    assert main(["train", str(app), "--models", models, "--task", "everyday"]) == 2  # no decision on image labels


def test_command_line_errors_are_one_line():
    code, _, error = command("train", "nowhere.py", "--models", "x")
    assert code == 2
    assert error.startswith("ConfigError: ")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_runner_and_figures_take_every_experiment(tmp_path):
    line = [
        sys.executable,
        "-m",
        "experiments.run",
        "+paper=chameleonapi",
        "experiment=all",
        "scale=smoke",
        "threads=1",
    ]
    line += [f"results_dir={tmp_path / 'results'}", f"figures_dir={tmp_path / 'figures'}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "figures" / "smoke" / "chameleonapi"
    drawn = {path.stem for path in folder.glob("*.png")}
    assert {"table3", "per_application", "confusion", "loss_ablation", "serving_load"} <= drawn
    assert "cannot be computed" not in (folder / "claims.md").read_text()
