"""The network, what it is trained towards, and training itself."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataUnavailable
from common.models.vision.sources import load_street_net
from common.models.vision.street_net import STRIDE, StreetDetector, StreetNet, StreetSegmenter, boxes_from
from common.models.vision.train import Batches, Options, learning_rate, losses, targets, train
from common.models.vision.training_data import load_or_make_shard


@pytest.fixture(scope="module")
def network() -> StreetNet:
    torch.manual_seed(0)
    return StreetNet(8).eval()


@pytest.mark.parametrize(("height", "width"), [(64, 96), (70, 90), (63, 33)])
def test_any_size_goes_in(network, height, width):
    images = torch.rand(2, 3, height, width)
    with torch.no_grad():
        boxes, scores = StreetDetector(network, "t", 0.5).candidates(images)
        logits = StreetSegmenter(network, "t").logits(images)
    cells = (-(-height // 16) * 4) * (-(-width // 16) * 4)
    assert boxes.shape == (2, cells, 4)
    assert scores.shape == (2, cells, 4)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    assert logits.shape == (2, 5, height, width)


def test_each_head_alone_says_what_it_says_beside_the_other(network):
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        heat, box, classes = network(images)
        boxes, scores = StreetDetector(network, "t", 0.5).candidates(images)
        logits = StreetSegmenter(network, "t").logits(images)
    assert torch.equal(scores, heat.sigmoid().flatten(2).transpose(1, 2))
    assert torch.equal(boxes, boxes_from(box))
    full = torch.nn.functional.interpolate(classes, size=(64, 96), mode="bilinear", align_corners=False)
    assert torch.equal(logits, full)


def test_detection_leaves_the_segmentation_head_alone(network):
    ran = []
    hook = network.fine.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        StreetDetector(network, "t", 0.5).candidates(torch.rand(1, 3, 32, 32))
    hook.remove()
    assert not ran


def test_gradients_reach_every_pixel_and_are_those_of_finite_differences(network):
    double = StreetNet(8).double().eval()
    double.load_state_dict(
        {key: value.double() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    )
    detector = StreetDetector(double, "t", 0.5)
    images = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    total = detector.candidates(images)[1].sum()
    (gradient,) = torch.autograd.grad(total, images)
    assert (gradient != 0).float().mean() > 0.95
    direction = torch.randn_like(images)
    step = 1e-6
    with torch.no_grad():
        up, down = (detector.candidates(images + sign * step * direction)[1].sum() for sign in (1, -1))
    assert ((up - down) / (2 * step)).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_targets_by_hand():
    # A box of 16 x 8 pixels around (30, 21): in cells of 4 pixels the centre is (7.5, 5.25), the size 4 x 2.
    heat, box, centre = targets(np.array([[22.0, 17, 38, 25], [0, 0, 0, 0]]), np.array([2, -1]), 12, 20)
    assert centre.sum() == centre[5, 7] == heat[2, 5, 7] == 1
    assert heat[[0, 1, 3]].sum() == 0
    np.testing.assert_allclose(box[:, 5, 7], [0.5, 0.25, np.log(4), np.log(2)], rtol=1e-6)
    # One cell to the right: exp(-1 / (2 * 0.8^2)) with sigma 4 / 5.
    assert heat[2, 5, 8] == pytest.approx(np.exp(-1 / (2 * 0.8**2)))


@settings(max_examples=30, deadline=None)
@given(x=st.floats(2, 70), y=st.floats(2, 40), w=st.floats(4, 30), h=st.floats(4, 20))
def test_decoding_the_target_gives_the_box(x, y, w, h):
    wanted = np.array([[x, y, x + w, y + h]])
    _, box, centre = targets(wanted, np.array([0]), 32, 48)
    decoded = boxes_from(torch.from_numpy(box)[None])[0]
    place = int(centre.reshape(-1).argmax())
    np.testing.assert_allclose(decoded[place].numpy(), wanted[0], atol=1e-3)


def test_the_loss_is_small_for_the_right_answer_and_larger_for_others():
    heat, box, centre = (torch.from_numpy(v)[None] for v in targets(np.array([[8.0, 8, 24, 20]]), np.array([1]), 8, 8))
    pixels = torch.zeros(1, 16, 16, dtype=torch.long)
    right_classes = torch.tensor([9.0, 0, 0, 0, 0]).view(1, 5, 1, 1).expand(1, 5, 16, 16)
    wanted = (heat, box, centre, pixels)
    logits = torch.logit(heat.clamp(1e-4, 1 - 1e-4))
    right = losses((logits, box, right_classes), wanted)
    wrong = losses((-logits, box + 1, -right_classes), wanted)
    assert right[0] < 0.3
    assert right[1] == 0
    assert right[2] < 0.01
    assert wrong[0] > 10 * right[0]
    assert wrong[1].item() == pytest.approx(4)
    assert wrong[2] > 1


def test_only_local_maxima_are_selected(network):
    detector = StreetDetector(network, "t", 0.5)
    scores = torch.zeros(1, 8 * 8, 4)
    scores[0, 3 * 8 + 3, 0] = 0.9
    scores[0, 3 * 8 + 4, 0] = 0.8  # next to a higher one
    scores[0, 3 * 8 + 4, 1] = 0.7  # another class
    scores[0, 6 * 8 + 6, 0] = 0.6
    kept = detector.select(scores, torch.zeros(1, 3, 32, 32)) & (scores > 0)
    assert [tuple(v) for v in kept.nonzero()[:, 1:].tolist()] == [(27, 0), (28, 1), (54, 0)]


def test_the_learning_rate_rises_and_falls():
    options = Options(out="x", steps=1000, rate=0.01)
    rates = [learning_rate(step, options) for step in range(1000)]
    assert rates[0] < rates[50] < rates[99]
    assert max(rates) <= 0.01
    assert rates[-1] < 1e-5


class TestTraining:
    def options(self, out, **changed) -> Options:
        small = {"steps": 4, "width": 4, "batch": 2, "samples": 8, "save_every": 2, "name": "tiny"}
        return Options(out=str(out), data=str(out.parent / "data"), **(small | changed))

    def test_it_learns_stores_and_loads(self, tmp_path):
        weights = train(self.options(tmp_path / "a", steps=50, rate=0.01))
        network, card = load_street_net("tiny", tmp_path / "a")
        log = [json.loads(line) for line in (tmp_path / "a" / "training_log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log] == [25, 50]
        assert log[1]["heat"] < log[0]["heat"]
        assert log[1]["pixels"] < log[0]["pixels"]
        assert card["training"]["seed"] == 0
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert weights.stat().st_size < 3_000_000
        assert (tmp_path / "a" / "training_curves.png").stat().st_size > 1000
        with pytest.raises(ConfigError, match="exists already"):
            train(self.options(tmp_path / "a"))

    def test_an_interrupted_run_ends_with_the_same_weights(self, tmp_path, monkeypatch):
        from common.models.vision import train as module

        whole = train(self.options(tmp_path / "whole"))
        calls = iter([False, True] + [False] * 50)  # over after the second look: the first step's
        monkeypatch.setattr(module, "_is_over", lambda begin, options: next(calls))
        part = train(self.options(tmp_path / "parts", max_seconds=1.0))
        assert part.name == "checkpoint.json"
        assert 0 < json.loads(part.read_text())["step"] < 4
        monkeypatch.undo()
        resumed = train(self.options(tmp_path / "parts", resume=True))
        assert resumed.read_bytes() == whole.read_bytes()

    def test_resuming_with_other_settings_is_refused(self, tmp_path):
        train(self.options(tmp_path / "a"))
        with pytest.raises(ConfigError, match=r"other settings \(batch\)"):
            train(self.options(tmp_path / "a", batch=3, resume=True))

    def test_weights_of_another_width_are_refused(self, tmp_path):
        train(self.options(tmp_path / "a"))
        card = tmp_path / "a" / "tiny.json"
        card.write_text(card.read_text().replace('"width": 4', '"width": 6', 1))
        with pytest.raises(ConfigError, match="not the weights"):
            load_street_net("tiny", tmp_path / "a")
        with pytest.raises(DataUnavailable, match="does not hold"):
            load_street_net("none", tmp_path)

    def test_shards_are_kept_and_repeat(self, tmp_path):
        first = load_or_make_shard(tmp_path / "x", 0, 3, 4)
        again, elsewhere = load_or_make_shard(tmp_path / "x", 0, 3, 4), load_or_make_shard(tmp_path / "y", 0, 3, 4)
        np.testing.assert_array_equal(first.frames, again.frames)
        np.testing.assert_array_equal(first.frames, elsewhere.frames)
        assert first.frames.shape == (4, 192, 320, 3)
        assert ((first.classes >= 0).sum(1) == (first.boxes[..., 2] > 0).sum(1)).all()
        assert not np.array_equal(first.frames, load_or_make_shard(tmp_path / "x", 0, 4, 4).frames)


def test_pieces_keep_their_objects_in_place():
    """A picture whose pixels say where they are: the piece shows which corner was cut, and boxes and mask must agree with it."""
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(64)[:, None], np.arange(96)[None]
    mask = np.zeros((64, 96), np.uint8)
    mask[20:30, 40:60] = 3
    boxes = np.array([[40.0, 20, 60, 30], [0, 0, 8, 8], [0, 0, 0, 0]], np.float32)
    batches = Batches([], Options(out="x", crop_height=32, crop_width=48))
    kept = 0
    for seed in range(40):
        piece, cut, inside, classes = batches._piece(
            np.random.default_rng(seed), frame, mask, boxes, np.array([2, 0, -1])
        )
        row, col = int(piece[0, 0, 0]), int(piece[0, 0, 1])
        assert piece.shape == (32, 48, 3)
        assert row % 2 == col % 2 == 0
        assert classes[2] == -1
        np.testing.assert_array_equal(inside[0], np.clip(boxes[0] - [col, row, col, row], 0, [48, 32, 48, 32]))
        share = (cut == 3).sum() / 200
        assert (classes[0] == 2) == (share >= 0.5)
        kept += classes[0] == 2
    assert kept > 12


@pytest.mark.parametrize("bad", [{"out": ""}, {"steps": 0}, {"rate": 0.0}, {"precision": "half"}, {"crop_width": 50}])
def test_bad_options(bad):
    with pytest.raises(ConfigError):
        Options(**({"out": "x"} | bad))


def test_stride():
    assert STRIDE == 4
