"""The rendered street: labels agree with pixels, cameras move as they say, everything follows from the generator."""

import numpy as np
import pytest

from common.data.video import CAMERAS, CLASSES, Clip, StreetScene, StreetStyle, render_street
from common.errors import ConfigError


def rendered(seed: int = 0, num_frames: int = 4, **style) -> Clip:
    return render_street(np.random.default_rng(seed), num_frames, **style)


@pytest.mark.parametrize("camera", CAMERAS)
def test_shapes_and_types(camera):
    clip = rendered(camera=camera, height=96, width=160)
    assert clip.frames.shape == (4, 96, 160, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.masks.shape == clip.instances.shape == clip.depth_m.shape == (4, 96, 160)
    assert len(clip.labels) == len(clip) == 4
    assert clip.name == f"street_{camera}"
    assert clip.masks.max() <= len(CLASSES)


def test_the_same_generator_gives_the_same_clip():
    a, b, other = rendered(3), rendered(3), rendered(4)
    np.testing.assert_array_equal(a.frames, b.frames)
    assert (a.frames != other.frames).mean() > 0.5


def test_each_label_is_the_box_of_an_instance_of_its_class():
    """The instance's visible pixels lie in the box; where nothing hides it, they fill the box to its edges."""
    tight = 0
    for seed in range(6):
        clip = rendered(seed, 1, num_objects=(10, 10))
        found = clip.labels[0]
        assert (found.boxes[:, 2] > found.boxes[:, 0]).all()
        assert found.boxes.min(initial=0) >= 0
        for box, label in zip(found.boxes, found.classes, strict=True):
            inside = np.zeros(clip.masks.shape[1:], bool)
            x0, y0, x1, y1 = np.round(box).astype(int)
            inside[y0:y1, x0:x1] = True
            here = clip.instances[0][inside & (clip.masks[0] == label + 1)]
            assert len(here), "no pixel of the box's class in the box"
            number = np.bincount(here).argmax()
            rows, cols = np.nonzero(clip.instances[0] == number)
            assert cols.min() >= x0 - 1
            assert cols.max() <= x1 + 1
            assert rows.min() >= y0 - 1
            assert rows.max() <= y1 + 1
            tight += cols.min() <= x0 + 2 and cols.max() >= x1 - 3 and rows.min() <= y0 + 3
    assert tight >= 5


def test_masks_follow_instances_and_nearer_things_hide_farther_ones():
    clip = rendered(1, 3, num_objects=(18, 18))
    for frame in range(3):
        assert ((clip.instances[frame] > 0) == (clip.masks[frame] > 0)).all()
        for number in np.unique(clip.instances[frame])[1:]:
            pixels = clip.instances[frame] == number
            assert len(np.unique(clip.masks[frame][pixels])) == 1
            assert np.ptp(clip.depth_m[frame][pixels]) == 0  # an upright picture has one distance


def test_depth_grows_towards_the_horizon_and_objects_stand_on_the_ground():
    clip = rendered(2, 1, camera="static", num_objects=(12, 12), clutter=(0, 0))
    column = clip.depth_m[0][:, 0]
    lowest = column[-40:]
    assert (np.diff(lowest) <= 1e-4).all()
    for box in clip.labels[0].boxes:
        x, y = int((box[0] + box[2]) / 2), int(box[3])
        if y + 2 < clip.height and clip.instances[0][y + 1, x] == 0:
            middle = clip.depth_m[0][int((box[1] + box[3]) / 2), x]
            assert clip.depth_m[0][y + 1, x] == pytest.approx(middle, rel=0.15)


def test_a_static_camera_keeps_the_ground_and_others_do_not():
    def change(camera: str) -> float:
        clip = rendered(5, 6, camera=camera, num_objects=(0, 0), noise=(0, 0), clutter=(20, 20))
        return float(np.abs(clip.frames[5].astype(int) - clip.frames[0]).mean())

    still = change("static")
    assert still < 3  # only the light may change
    assert all(change(camera) > 1.5 * still for camera in ("pan", "slide", "drive"))


def test_objects_move_as_they_should():
    clip = rendered(0, 12, camera="static", num_objects=(10, 10))
    moved = 0
    for number in range(1, 11):
        centres = [
            np.nonzero(clip.instances[t] == number)[1].mean() for t in (0, 11) if (clip.instances[t] == number).any()
        ]
        moved += len(centres) == 2 and abs(centres[1] - centres[0]) > 1
    assert moved >= 2


def test_noise_and_light_follow_the_style():
    calm = rendered(7, 1, noise=(0, 0), light=(1, 1))
    noisy = rendered(7, 1, noise=(6, 6), light=(1, 1))
    dark = rendered(7, 1, noise=(0, 0), light=(0.4, 0.4))
    difference = noisy.frames.astype(float) - calm.frames
    assert 4.5 < difference.std() < 7
    assert dark.frames.mean() < 0.6 * calm.frames.mean()


def test_larger_pictures_show_the_same_street():
    import cv2

    small = rendered(8, 1, noise=(0, 0), camera="static")
    large = rendered(8, 1, noise=(0, 0), camera="static", height=384, width=640)
    shrunk = cv2.resize(large.frames[0], (320, 192), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(float) - small.frames[0]).mean() < 8


def test_a_scene_can_skip_time():
    scene = StreetScene(np.random.default_rng(0), StreetStyle(height=96, width=160))
    first, *_ = scene.frame()
    scene.advance(2.0)
    later, *_ = scene.frame()
    assert np.abs(first.astype(int) - later).mean() > 1


def test_parts_and_joints():
    clip = rendered(0, 6, height=96, width=160)
    part = clip.part(1, 6, 2)
    assert len(part) == 3
    assert part.fps == clip.fps / 2
    np.testing.assert_array_equal(part.frames[1], clip.frames[3])
    np.testing.assert_array_equal(part.boxes[1], clip.boxes[3])
    both = Clip.join([clip, part.part(0, 3)] if part.fps == clip.fps else [clip, clip.part(0, 2)])
    assert len(both) == 8
    assert len(both.labels) == 8
    with pytest.raises(ConfigError, match="join needs"):
        Clip.join([clip, rendered(0, 2)])


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"height": 20}, "sides lie"),
        ({"camera": "drone"}, "not a camera"),
        ({"noise": (3, 1)}, "no range"),
        ({"distance_m": (1, 20)}, "must lie in"),
        ({"class_weights": (1, 1)}, "four weights"),
        ({"num_frames": 0}, "at least 1"),
    ],
)
def test_bad_styles_are_refused(style, message):
    with pytest.raises(ConfigError, match=message):
        rendered(**style)
