"""The bundled applications: parsed, run by their own code through the drop-in client, and both agree."""

from itertools import permutations

import numpy as np
import pytest
import torch

from chameleonapi.applications import AppRunner, behaviours, bundled, in_folder
from chameleonapi.decisions import DecisionSummary
from chameleonapi.harness import KnownScores
from chameleonapi.semantics import DecisionProcess, decide
from chameleonapi.tasks.tasks import task_named
from common.errors import ConfigError

# The grocery applications need the photographs' labels: see test_real_data.py.
APPS = {app.name: app for app in bundled() if app.task != "grocery"}
KINDS = {  # written down from reading the sources
    "true_false": {
        "road_sign_alert",
        "hot_snack",
        "fruit_scale",
        "campsite_gate",
        "letter_box",
        "fit_feed",
        "serious_news",
    },
    "api_first": {"recycling_station", "aisle_finder", "toy_arm", "craft_corner", "advice_column"},
    "app_choice": {"door_robot", "damage_claim", "dress_code", "ad_blocklist"},
    "multi_select": {"holiday_album", "flat_inventory", "nursery_tagger", "street_survey", "newsletter"},
}


def summary_of(name) -> DecisionSummary:
    task = task_named(APPS[name].task)
    return APPS[name].summary(task.vocabulary, task.labels)


@pytest.mark.parametrize("name", APPS)
def test_the_parser_finds_the_decision(name):
    summary = summary_of(name)
    kind = summary.order if summary.kind == "multi_choice" else summary.kind
    assert name in KINDS[kind]


@pytest.mark.parametrize("name", APPS)
def test_own_code_decides_as_the_summary_says(name, tmp_path):
    """All outputs of at most two labels from a dozen, in both orders, and a hundred random outputs."""
    app, summary = APPS[name], summary_of(name)
    task = task_named(app.task)
    rng = np.random.default_rng(3)
    inside = [label for one in summary.lists for label in one.labels]
    outside = [label for label in task.labels if label not in inside]
    few = list(dict.fromkeys([one.labels[0] for one in summary.lists] + [one.labels[-1] for one in summary.lists]))
    few = [*few[:7], *outside[:2]]
    outputs = [[], *([a] for a in few), *map(list, permutations(few, 2))]
    outputs += [rng.permutation(np.array(inside + outside[:6]))[: rng.integers(1, 9)].tolist() for _ in range(100)]
    backend = KnownScores(task.labels, 0.5, 10)

    def answer_with(output):
        backend.scores_C = np.zeros(len(task.labels), np.float32)
        for label, score in output:
            backend.scores_C[task.labels.index(label)] = score

    examples = task.examples("test", 0, 1)
    content = task.content(examples.inputs, 0)
    (tmp_path / "input").write_bytes(content)
    given = {"path": str(tmp_path / "input"), "bytes": content, "text": content.decode("utf-8", "replace")}[app.gets]
    with AppRunner(app, backend.transport) as runner:
        meaning = behaviours(summary, runner, given, answer_with)
        for output in outputs:
            scores = np.sort(rng.uniform(0.51, 0.99, len(output)))[::-1]
            scored = [(label, float(np.float32(score))) for label, score in zip(output, scores, strict=True)]
            answer_with(scored)
            decided = meaning[runner.run(given)]
            assert decided == summary.decide([(label, score * summary.scale) for label, score in scored]), scored
            process = DecisionProcess.from_summary(summary, task.labels)
            taken = decide(process, torch.from_numpy(backend.scores_C)[None], 0.5, 10)[0]
            assert tuple(summary.lists[i].id for i in torch.nonzero(taken).flatten().tolist()) == decided


def test_running_leaves_no_trace():
    import sys

    before = set(sys.modules), list(sys.path)
    backend = KnownScores(task_named("everyday").labels, 0.5, 10)
    with AppRunner(APPS["recycling_station"], backend.transport):
        pass
    assert not [
        m
        for m in set(sys.modules) - before[0]
        if m.startswith(("google", "boto3", "bin_rules", "station", "chameleonapi_client"))
    ]
    assert sys.path == before[1]


def test_a_folder_of_applications(tmp_path):
    (tmp_path / "one.py").write_text("print(1)\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "main.py").write_text("print(2)\n")
    (tmp_path / "notes.txt").write_text("no application")
    assert [app.name for app in in_folder(tmp_path, "everyday")] == ["one", "two"]
    with pytest.raises(ConfigError, match="0 decisions"):
        in_folder(tmp_path, "everyday")[0].summary("image", ["Cat"])
    with pytest.raises(ConfigError, match="is not a folder"):
        in_folder(tmp_path / "nowhere", "everyday")
    with pytest.raises(ConfigError, match="no entry"):
        AppRunner(in_folder(tmp_path, "everyday")[0], lambda *_: (200, b"{}"))


def test_indistinguishable_decisions_are_refused(tmp_path):
    (tmp_path / "same.py").write_text(
        "from google.cloud import vision\n\n"
        "def f(content):\n"
        "    for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=content)).label_annotations:\n"
        "        if l.description == 'Apple':\n            return 1\n"
        "        if l.description == 'Ball':\n            return 2\n"
    )
    from chameleonapi.applications import Application

    app = Application("same", tmp_path / "same.py", entry="f", gets="bytes")
    summary = app.summary("image", task_named("everyday").labels)
    with AppRunner(app, KnownScores(task_named("everyday").labels, 0.5, 10).transport) as runner:
        runner.run = lambda given: "always the same"
        with pytest.raises(ConfigError, match="cannot be told apart"):
            behaviours(summary, runner, b"x", lambda output: None)
