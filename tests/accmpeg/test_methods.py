"""Every method keeps the contract; what is particular about each baseline."""

import dataclasses
import itertools

import numpy as np
import pytest

from accmpeg import frame_filter
from accmpeg.api import METHODS, Chunk, chunks_of, points_of
from accmpeg.contract import SIDE, check_method, square_clip, square_detection, square_site
from accmpeg.harness import Reference, Settings, score, stream
from accmpeg.loop import LinkSettings, MeteredLoop
from accmpeg.methods import Dds, Eaar, ReductoSession, moved, open_session
from common.errors import ConfigError


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_keeps_the_contract(name):
    check_method(name)


def fresh_loop() -> MeteredLoop:
    return MeteredLoop(LinkSettings().build(), 30.0, lambda: 0.0)


def scored(name, clip=None, reference_settings=None, **knobs):
    clip = square_clip(1) if clip is None else clip
    settings = Settings(4, 1)
    site = square_site(clip)
    return score(
        METHODS.create(name, **knobs), clip, site, settings, Reference.of(clip, site.dnn, settings), lambda: 0.0
    )


def test_the_reference_scores_one():
    found = scored("awstream", qp=30)
    assert found["accuracy"] == 1
    assert found["size_ratio"] == 1
    assert 0 < found["label_accuracy"] <= 1
    assert found["delay"] == found["time_network"]  # the clock stands still


def test_all_high_quality_is_the_reference_and_none_is_uniform_low():
    assert scored("random_blocks", share=1.0)["accuracy"] == 1
    low, none = scored("awstream", qp=44), scored("random_blocks", share=0.0, qp_lo=44)
    assert low["size"] == none["size"]
    assert low["accuracy"] == none["accuracy"] < 1


def test_the_accuracy_of_gradient_maps_does_not_fall_with_their_share():
    clip = square_clip(7, 8)
    found = [scored("accgrad", clip, share=share, qp_lo=44)["accuracy"] for share in (0.0, 0.15, 0.4, 1.0)]
    assert all(b >= a - 0.05 for a, b in itertools.pairwise(found))
    assert found[-1] == 1
    assert found[1] > scored("random_blocks", clip, share=0.15, qp_lo=44)["accuracy"]


def test_a_curve_is_its_points_and_knobs_that_are_set_win():
    method = METHODS.create("accmpeg")
    assert len(points_of(method)) == len(type(method).POINTS)
    fixed = points_of(METHODS.create("accmpeg", qp_lo=38))
    assert {policy.qp_lo for _, _, policy in fixed} == {38}
    assert [label for label, _, _ in fixed] == ["alpha=0.715", "alpha=0.553", "alpha=0.383", "alpha=0.092"]


def test_every_curve_has_as_many_settings():
    assert {len(points_of(METHODS.create(name))) for name in METHODS.names()} == {6}


# ---------------------------------------------------------------------------------------------------------- DDS, EAAR


def test_dds_asks_for_nothing_when_all_is_sure():
    clip, dnn = square_clip(1), square_detection()
    # Every proposal is a confident detection: nothing to ask for, one pass.
    policy = Dds(objectness=0.5)
    assert not any(len(boxes) for boxes in policy.regions(dnn, clip.frames))
    loop = fresh_loop()
    open_session(policy, square_site(clip)).deliver(next(chunks_of(clip, 4)), loop)
    assert loop.ledger.num_uploads == 1


def test_dds_asks_for_what_it_is_unsure_of():
    clip = square_clip(1)
    unsure = square_detection(threshold=0.99)
    asked = Dds(objectness=0.3, max_area=0.2).regions(unsure, clip.frames)
    assert all(len(boxes) for boxes in asked)
    assert not any(len(boxes) for boxes in Dds(objectness=0.3, max_area=0.001).regions(unsure, clip.frames))
    loop = fresh_loop()
    open_session(Dds(objectness=0.3, max_area=0.2), square_site(clip, unsure)).deliver(next(chunks_of(clip, 4)), loop)
    assert loop.ledger.num_uploads == 2
    # Two passes up, the regions down and the result down: two round trips of 0.1 s and the bytes.
    ledger = loop.finish()
    assert ledger.seconds["network"] > 0.2 + 8 * ledger.num_bytes / 100e3


def test_eaar_regions_are_stale_when_objects_jump():
    clip = square_clip(3, 8)
    jumped = clip.frames.copy()
    jumped[4:] = np.roll(jumped[4:], 48, axis=2)  # too far for motion estimation to follow everything
    still = dataclasses.replace(clip, frames=np.repeat(clip.frames[:1], 8, axis=0), labels=None)
    dnn = square_detection()

    def masks(regions, moving):
        session = open_session(Eaar(regions=regions, objectness=0.4), square_site(moving, dnn))
        maps = []

        class Watching(MeteredLoop):
            def upload(self, frames, qp, **options):
                maps.append(np.asarray(qp))
                return super().upload(frames, qp, **options)

        for chunk in chunks_of(moving, 4):
            session.deliver(chunk, Watching(LinkSettings().build(), 30.0, lambda: 0.0))
        return maps

    assert (masks("moved", still)[1] == masks("same_frame", still)[1]).all()
    moving = dataclasses.replace(clip, frames=jumped)
    assert (masks("moved", moving)[1] != masks("same_frame", moving)[1]).any()


def test_boxes_follow_motion_vectors():
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    later = np.roll(texture, (4, 8), axis=(0, 1))
    boxes = np.array([[32.0, 32.0, 64.0, 64.0]])
    assert moved(boxes, texture, later, 30.0)[0] == pytest.approx([40, 36, 72, 68], abs=1)
    assert moved(boxes, texture, texture, 30.0)[0] == pytest.approx(boxes[0], abs=0.3)
    assert not len(moved(np.zeros((0, 4)), texture, later, 30.0))


# ------------------------------------------------------------------------------------------------------------- Reducto


def test_features_of_equal_frames_are_zero():
    frame = square_clip(1).frames[0]
    assert [frame_filter.difference(frame, frame, feature) for feature in frame_filter.FEATURES] == [0, 0, 0]


def test_pixel_feature_by_hand():
    before = np.full((32, 32, 3), 100, np.uint8)
    after = before.copy()
    after[:8, :8] = 121  # changes by 21: not more than 21
    assert frame_filter.difference(before, after, "pixel") == 0
    after[:8, :8] = 122
    assert frame_filter.difference(before, after, "pixel") == 64 / 1024


def test_kept_frames():
    frames = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (10, 11, 60, 61, 10)])
    assert frame_filter.kept_frames(frames, "pixel", 0.5, None) == [0, 2, 4]
    assert frame_filter.kept_frames(frames, "pixel", 0.5, frames[0]) == [2, 4]
    assert frame_filter.kept_frames(frames, "pixel", -1.0, frames[0]) == [0, 1, 2, 3, 4]
    assert frame_filter.kept_frames(frames, "pixel", 1.0, frames[0]) == []


def test_dropped_frames_repeat_the_last_one_sent_also_over_chunks():
    frames = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (10, 10, 90, 90, 90, 90, 200, 200)])
    session = ReductoSession(METHODS.create("reducto", threshold=0.5, feature="pixel"))
    shown = []
    uploads = []
    for index in range(0, 8, 2):
        loop = fresh_loop()
        delivery = session.deliver(Chunk(index // 2, index, frames[index : index + 2], 30.0), loop)
        shown += [float(picture.mean()) for picture in delivery.frames[delivery.shown]]
        uploads.append(loop.ledger.num_uploads)
    assert shown == pytest.approx(frames.mean((1, 2, 3)), abs=3)
    assert uploads == [1, 1, 0, 1]


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "knobs", "words"),
    [
        ("accmpeg", {"alpha": 1.5}, "alpha=1.5"),
        ("accmpeg", {"qp_hi": 40, "qp_lo": 30}, "40, 30"),
        ("accmpeg", {"sample": "middle"}, "middle"),
        ("accmpeg", {"target": "both"}, "both"),
        ("accmpeg", {"dilation": 2}, "odd"),
        ("accmpeg", {"codec": "vp9"}, "takes no maps"),
        ("awstream", {"qp": 0}, "qp=0"),
        ("vp9", {"qp": 64}, "qp=64"),
        ("reducto", {"feature": "corner"}, "corner"),
        ("reducto", {"threshold": 2.0}, "never exceeded"),
        ("reducto", {"threshold": float("nan")}, "never exceeded"),
        ("eaar", {"regions": "stale"}, "stale"),
        ("accmpeg_levels", {"qps": (30, 40)}, "one fewer"),
    ],
)
def test_bad_knobs_are_refused(name, knobs, words):
    with pytest.raises(ConfigError, match=words):
        METHODS.create(name, **knobs)


@dataclasses.dataclass(frozen=True)
class Constant:
    value: object

    def qp_map(self, frame):
        return self.value


def test_a_policy_of_one_function():
    clip = square_clip(1)
    site, settings = square_site(clip), Settings(4, 1)
    reference = Reference.of(clip, site.dnn, settings)
    found = list(stream(Constant(np.full((6, 8), 30, np.uint8)), clip, site, settings, reference, lambda: 0.0))
    assert [chunk.accuracies for chunk in found] == [[1.0] * 4]
    for bad, words in ((np.full((6, 8), 30), "must be uint8"), (np.full((6, 7), 30, np.uint8), r"\(6, 8\)")):
        with pytest.raises(ConfigError, match=words):
            list(stream(Constant(bad), clip, site, settings, reference, lambda: 0.0))
    with pytest.raises(ConfigError, match="no quality policy"):
        open_session(object(), site)


def test_a_clip_that_is_too_short_is_refused():
    clip = square_clip(1, 4)
    site = square_site(clip)
    with pytest.raises(ConfigError, match="too few"):
        list(stream(METHODS.create("awstream"), clip, site, Settings(4, 1), Reference([], []), lambda: 0.0))


def test_the_camera_detector_sees_half_the_resolution():
    clip = square_clip(1)
    (boxes,) = square_site(clip).camera.detector().boxes(clip.frames[:1], 0.01)
    # At half the resolution the hand-made detector's 16 pixels cover 32, and squares score less.
    assert len(boxes)
    assert (boxes[:, 2] - boxes[:, 0] == 2 * SIDE).all()
