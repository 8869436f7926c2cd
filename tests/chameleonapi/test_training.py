"""Tasks, networks, selection, training, choice on validation, methods."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score

from chameleonapi.api import METHODS, WORKLOADS
from chameleonapi.contract import check_method, check_workload, tiny_provider
from chameleonapi.decisions import DecisionSummary, TargetList
from chameleonapi.harness import confusion, error_kinds
from chameleonapi.losses import conventional_loss, decision_loss
from chameleonapi.methods import BestOfAll, Categorized, Merged, ThresholdOnly, shift_scores
from chameleonapi.networks import Architecture, Network, facts_of, load, save
from chameleonapi.pretrain import FOLDER, mean_average_precision, recipes, train
from chameleonapi.semantics import DecisionCurve, DecisionProcess, decide, is_correct
from chameleonapi.tasks import everyday, topics
from chameleonapi.tasks.task import Examples, UnreadableContent
from chameleonapi.tasks.tasks import task_named
from chameleonapi.training import (
    THETA_GRID,
    AppData,
    Schedule,
    choose,
    customize,
    fit,
    micro_f1_threshold,
    request_limits,
    select,
)
from common.errors import ConfigError, CorruptBitstream

# ------------------------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("name", ["everyday", "topics"])
def test_examples_are_reproducible_and_splits_differ(name):
    task = task_named(name)
    one, again = task.examples("test", 3, 20), task.examples("test", 3, 20)
    assert torch.equal(one.inputs, again.inputs)
    assert torch.equal(one.labels_NC, again.labels_NC)
    for split, seed in (("train", 3), ("validation", 3), ("test", 4)):
        assert not torch.equal(one.inputs, task.examples(split, seed, 20).inputs)
    counts = task.examples("train", 0, 300).labels_NC.sum(1)
    assert (int(counts.min()), int(counts.max())) == (1, 3)
    assert sorted(label for own in task.categories.values() for label in own) == sorted(task.labels)
    with pytest.raises(ConfigError, match="split"):
        task.examples("dev", 0, 1)


def test_forty_classes_in_confusable_groups():
    assert len(everyday.LABELS) == len(set(everyday.LABELS)) == 40
    sprites = everyday.sprites()
    mean = sprites.mean(1).reshape(40, -1)
    distance = np.linalg.norm(mean[:, None] - mean[None], axis=2)
    same = np.array([[i // 4 == j // 4 and i != j for j in range(40)] for i in range(40)])
    # Variants of a silhouette are nearer to each other than to other silhouettes, on the whole.
    assert distance[same].mean() < 0.75 * distance[~same & ~np.eye(40, dtype=bool)].mean()


@pytest.mark.parametrize("name", ["everyday", "topics"])
def test_content_comes_back(name):
    task = task_named(name)
    examples = task.examples("test", 0, 5)
    for index in range(5):
        assert torch.equal(task.read(task.content(examples.inputs, index))[0], examples.inputs[index])


def test_any_image_file_is_read_and_nothing_else():
    task = task_named("everyday")
    buffer = io.BytesIO()
    Image.new("RGBA", (200, 90), (255, 0, 0, 128)).save(buffer, "PNG")
    assert task.read(buffer.getvalue()).shape == (1, 32, 32)
    with pytest.raises(UnreadableContent):
        task.read(buffer.getvalue()[:60])
    with pytest.raises(UnreadableContent, match="pixels"):
        everyday.open_image(buffer.getvalue(), max_pixels=100)
    with pytest.raises(UnreadableContent, match="UTF-8"):
        task_named("topics").read(b"\xff\xfe\x00")


def test_mean_average_precision_equals_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random((80, 6)) < 0.2
    labels[:, 5] = False  # a label that is never true does not count
    scores = rng.random((80, 6)).astype(np.float32)
    ours = mean_average_precision(torch.from_numpy(scores), torch.from_numpy(labels))
    assert ours == pytest.approx(average_precision_score(labels[:, :5], scores[:, :5], average="macro"))
    # By hand: true at ranks 1 and 3 of 3: (1/1 + 2/3) / 2.
    hand = mean_average_precision(torch.tensor([[0.9], [0.5], [0.1]]), torch.tensor([[True], [False], [True]]))
    assert hand == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(ConfigError):
        mean_average_precision(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    "architecture",
    [Architecture("convolution", ("a", "b"), 3, 8), Architecture("words", ("a", "b"), 0, 8, 50, "topics")],
    ids=["convolution", "words"],
)
def test_networks_come_back_from_their_files(tmp_path, architecture):
    network = Network(architecture).initialise(np.random.default_rng(0)).eval()
    save(network, tmp_path / "n.safetensors", {"seed": 0})
    again = load(tmp_path / "n.safetensors")
    assert again.fingerprint() == network.fingerprint()
    assert again.architecture == architecture
    assert facts_of(tmp_path / "n.safetensors") == {"seed": 0}
    assert network.initialise(np.random.default_rng(0)).fingerprint() == again.fingerprint()
    data = (tmp_path / "n.safetensors").read_bytes()
    for damaged in (b"", data[:100], data[:-3], b"{}" + data):
        (tmp_path / "bad.safetensors").write_bytes(damaged)
        with pytest.raises(CorruptBitstream, match="damaged"):
            load(tmp_path / "bad.safetensors")
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "none.safetensors")


def test_shipped_networks_match_their_cards():
    import json

    for name, recipe in recipes().items():
        path = FOLDER / f"{name}.safetensors"
        card = json.loads((FOLDER / f"{name}.json").read_text())
        assert facts_of(path) == card
        # Cards of networks that start from random weights may leave `start` out.
        assert {"start": "", **card["recipe"]} == dataclasses.asdict(recipe)
        assert card["num_parameters"] < 1_000_000
        assert card["test_map"] > 4 * card["chance_map"]


def test_a_shipped_network_scores_what_its_card_says():
    import json

    network = load(FOLDER / "topics_generic.safetensors")
    card = json.loads((FOLDER / "topics_generic.json").read_text())
    held_out = task_named("topics").examples("test", 2000, card["test_examples"])
    assert mean_average_precision(network.scores(held_out.inputs), held_out.labels_NC) == pytest.approx(
        card["test_map"], abs=0.002
    )


def test_training_is_deterministic_and_learns():
    recipe = dataclasses.replace(recipes()["topics_generic"], epochs=2, pool_size=300)
    pool = task_named("topics").examples("train", 1000, 300)
    first, losses = train(recipe, pool)
    second, _ = train(recipe, pool)
    assert first.fingerprint() == second.fingerprint()
    assert losses[-1] < losses[0]


# --------------------------------------------------------------------------------------------------------------- selection


@given(st.integers(0, 10_000), st.integers(8, 80))
@settings(max_examples=30, deadline=None)
def test_selection_is_balanced(seed, size):
    rng = np.random.default_rng(seed)
    process = DecisionProcess.from_lists("multi_select", [[0, 1], [2]], 5)
    labels = torch.from_numpy(rng.random((400, 5)) < 0.25)
    pool = Examples(torch.zeros(400, 1), labels)
    chosen = select(process, pool, size, rng)
    assert len(set(chosen.tolist())) == len(chosen) <= size
    present = process.present(labels[chosen])
    quota = size // 3
    assert int((~present.any(1)).sum()) == quota
    assert int(present[:, 0].sum()) >= quota
    assert int(present[:, 1].sum()) >= quota


def test_selection_needs_every_group():
    process = DecisionProcess.from_lists("true_false", [[0]], 2)
    pool = Examples(torch.zeros(3, 1), torch.tensor([[True, False]] * 3))
    with pytest.raises(ConfigError, match="no list"):
        select(process, pool, 2, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="list 0"):
        select(process, Examples(torch.zeros(3, 1), ~pool.labels_NC), 2, np.random.default_rng(0))


def test_what_an_application_asks_for_narrows_the_limits():
    def summary(kind, **request):
        return DecisionSummary("x", "y", kind, lists=(TargetList(0, ("a",)),), request=request)

    assert request_limits(summary("true_false")) == (0.5, 10)
    assert request_limits(summary("multi_select", max_results=3)) == (0.5, 3)
    assert request_limits(summary("multi_select", MaxLabels=100, MinConfidence=75)) == (0.75, 15)
    assert request_limits(summary("true_false", MinConfidence=0), theta=0.2) == (0.2, 10)


# ---------------------------------------------------------------------------------------------------------------- training


def tiny_case(kind="multi_choice", order="api_first", epochs=1):
    provider = tiny_provider()
    process = DecisionProcess.from_lists(kind, [[0, 5, 9], [14, 22, 31]], 40, order)
    schedule = Schedule(epochs, epochs, batch=20)
    data = AppData(
        "t", None, process, provider.pool.take(range(40)), provider.pool.take(range(40, 60)), schedule=schedule
    )
    return provider, data


def test_schedule_gives_every_loss_the_same_steps():
    provider, data = tiny_case(epochs=2)
    steps = {}
    for name in ("chameleonapi", "basic_equal_steps"):
        design, calls = METHODS.create(name), []

        class Counted:
            def loss(self, app, logits_NC, labels_NC, design=design, calls=calls):
                calls.append(len(logits_NC))
                return design.loss(app, logits_NC, labels_NC)

        candidates = customize(Counted(), data, provider, np.random.default_rng(0))
        steps[name] = calls
        assert len(candidates) == 2
    assert steps["chameleonapi"] == steps["basic_equal_steps"]
    assert len(steps["chameleonapi"]) == data.num_stage2_steps() == 4
    for wrong in ({"stage2_epochs": 0}, {"batch": 0}, {"stage1_rate": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(ConfigError):
            Schedule(**wrong)


def test_training_moves_all_weights_and_not_the_start():
    provider, data = tiny_case()
    before = provider.generic.fingerprint()
    (after,) = fit(provider.generic, data.train, conventional_loss, 1, 1e-3, data.schedule, np.random.default_rng(0))
    assert provider.generic.fingerprint() == before
    start = dict(provider.generic.named_parameters())
    assert all(not torch.equal(p, start[name]) for name, p in after.named_parameters())


def test_decision_loss_learns_a_separable_task():
    """Texts about sport against others, by the decision loss alone: no wrong decision is left on what it learnt from."""
    pool = task_named("topics").examples("train", 5, 300)
    process = DecisionProcess.from_lists("true_false", [[topics.LABELS.index("/Sports")]], len(topics.LABELS))
    # Separable by construction: a word that stands in the texts of the list only.
    inputs = pool.inputs.clone()
    inputs[process.present(pool.labels_NC)[:, 0], 0] = topics.dictionary()["goal"]
    inputs[~process.present(pool.labels_NC)[:, 0]] = inputs[~process.present(pool.labels_NC)[:, 0]].masked_fill(
        inputs[~process.present(pool.labels_NC)[:, 0]] == topics.dictionary()["goal"], 1
    )
    chosen = select(process, Examples(inputs, pool.labels_NC), 80, np.random.default_rng(0))
    examples = Examples(inputs, pool.labels_NC).take(chosen)
    architecture = Architecture("words", topics.LABELS, 6, 16, len(topics.dictionary()) + 2, "topics")
    network = Network(architecture).initialise(np.random.default_rng(0))
    schedule = Schedule(batch=20)

    def loss(logits_NC, labels_NC):
        return decision_loss(process, logits_NC, labels_NC, alpha=5.0)

    trained = fit(network, examples, loss, 60, 0.02, schedule, np.random.default_rng(0))[-1]
    wrong = ~is_correct(process, decide(process, trained.scores(examples.inputs)), examples.labels_NC)
    assert int(wrong.sum()) == 0


# ------------------------------------------------------------------------------------------------------- choice, methods


@pytest.mark.parametrize(
    ("kind", "order"),
    [("true_false", None), ("multi_choice", "api_first"), ("multi_choice", "app_choice"), ("multi_choice", "api_last"),
     ("multi_select", None)],
)  # fmt: skip
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_decision_curve_is_decide_at_every_threshold(kind, order, seed):
    rng = np.random.default_rng(seed)
    num_lists = 1 if kind == "true_false" else 3
    lists = [rng.choice(8, rng.integers(1, 4), replace=False).tolist() for _ in range(num_lists)]  # may overlap
    window = None if rng.random() < 0.5 else int(rng.integers(1, 5))
    process = DecisionProcess.from_lists(kind, lists, 8, order, window)
    if rng.random() < 0.5:
        own = torch.where(process.members_LC, torch.from_numpy(rng.uniform(0.1, 0.8, (num_lists, 8))), float("-inf"))
        strict = torch.from_numpy(rng.random((num_lists, 8)) < 0.5)
        process = dataclasses.replace(process, thresholds_LC=own, strict_LC=strict)
    scores = torch.from_numpy(rng.integers(0, 12, (30, 8)) / 12).float()  # many ties
    top_k = [None, 1, 3, 20][rng.integers(4)]
    curve = DecisionCurve(process, scores, top_k)
    for theta in (0.0, 0.25, 0.5, 0.9):
        assert torch.equal(curve.decide(theta), decide(process, scores, theta, top_k))


def test_choice_by_hand():
    process = DecisionProcess.from_lists("true_false", [[0]], 1)
    labels = torch.tensor([[True], [True], [False], [False]])
    bad, good = torch.tensor([[0.1], [0.2], [0.8], [0.9]]), torch.tensor([[0.4], [0.9], [0.3], [0.1]])
    choice = choose(process, [bad, good], labels, THETA_GRID, None)
    assert (choice.candidate, choice.validation_idr) == (1, 0.0)
    assert 0.3 <= choice.theta < 0.4
    fixed = choose(process, [bad, good], labels, [0.5], None)
    assert (fixed.candidate, fixed.theta, fixed.validation_idr) == (1, 0.5, 0.25)
    # Only the third input counts: the bad model is wrong on it, the good one right.
    weighted = choose(process, [bad], labels, [0.5], None, torch.tensor([0.0, 0.0, 1.0, 0.0]))
    assert weighted.validation_idr == 1.0


def test_micro_f1_threshold_by_hand():
    # At thresholds from 0.3 to below 0.6 both true labels are said and one false one (F1 = 4/5); from 0.6 on one true one: 2/3.
    scores = torch.tensor([[0.6, 0.2], [0.9, 0.65]])
    labels = torch.tensor([[True, False], [True, False]])
    assert micro_f1_threshold(scores, labels, (0.1, 0.3, 0.7)) == 0.3


def test_best_of_all_chooses_on_validation():
    provider, data = tiny_case()
    process = DecisionProcess.from_lists("true_false", [[0]], 40)
    candidates = BestOfAll().customize(data, provider, np.random.default_rng(0))
    assert candidates == [provider.generic, *provider.others]
    labels = torch.zeros(4, 40, dtype=torch.bool)
    labels[:2, 0] = True
    perfect = labels.float() * 0.8
    assert choose(process, [1 - perfect, perfect], labels, [0.5], 10).candidate == 1


def test_categorized_serves_from_few_categories_and_merges():
    provider, data = tiny_case()
    food = [everyday.LABELS.index(x) for x in ("Apple", "Pizza")]
    rng = np.random.default_rng(0)

    def models(lists):
        process = DecisionProcess.from_lists("multi_select", lists, 40)
        return Categorized().customize(dataclasses.replace(data, process=process), provider, rng)

    (merged,) = models([food])
    assert isinstance(merged, Merged)
    scores = merged.scores(data.validation.inputs)
    own = [everyday.LABELS.index(x) for x in everyday.CATEGORIES["food"]]
    assert torch.equal(scores[:, own], provider.categorized["food"].scores(data.validation.inputs))
    assert float(scores[:, [i for i in range(40) if i not in own]].abs().sum()) == 0
    scattered = [[everyday.LABELS.index(x)] for x in ("Apple", "Chair", "Shirt")]
    assert models(scattered) == [provider.generic]


def test_shifting_scores_moves_the_threshold_of_a_list():
    process = DecisionProcess.from_lists("multi_select", [[0], [1]], 3)
    scores = torch.tensor([[0.3, 0.3, 0.3]])
    shifted = shift_scores(scores, process, [2.0, -2.0])
    # logit(0.3) = -0.847; +2 gives 0.760, -2 gives 0.055.
    assert shifted[0].tolist() == pytest.approx([0.7602, 0.0548, 0.3], abs=1e-3)


def test_threshold_only_is_never_worse_on_validation():
    provider, data = tiny_case("multi_select", None)
    (tuned,) = ThresholdOnly().customize(data, provider, np.random.default_rng(0))
    v = data.validation
    rates = [
        choose(data.process, [m.scores(v.inputs)], v.labels_NC, [0.5], 10).validation_idr
        for m in (provider.generic, tuned)
    ]
    assert rates[1] <= rates[0]


@pytest.mark.parametrize("name", METHODS.names())
def test_method_contract(name):
    check_method(name)


@pytest.mark.parametrize("name", WORKLOADS.names())
def test_workload_contract(name):
    check_workload(name)


# ------------------------------------------------------------------------------------------------------------------ counts


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_error_kinds_are_all_errors_once(seed):
    rng = np.random.default_rng(seed)
    kind, order = [
        ("true_false", None),
        ("multi_choice", "api_first"),
        ("multi_choice", "app_choice"),
        ("multi_select", None),
    ][rng.integers(4)]
    lists = [[0, 1]] if kind == "true_false" else [[0, 1], [2], [3]]
    process = DecisionProcess.from_lists(kind, lists, 6, order)
    scores = torch.from_numpy(rng.random((50, 6))).float()
    labels = torch.from_numpy(rng.random((50, 6)) < 0.3)
    taken = decide(process, scores, 0.5, 3)
    kinds = error_kinds(process, taken, labels)
    wrong = ~is_correct(process, taken, labels)
    assert torch.equal(torch.stack(list(kinds.values())).sum(0), wrong.long())
    if kind != "multi_select":
        table = confusion(process, taken, labels)
        assert sum(share for _, _, share in table) == pytest.approx(1.0)
        off_diagonal = sum(share for true, said, share in table if true != said)
        assert off_diagonal == pytest.approx(float(wrong.double().mean()))
