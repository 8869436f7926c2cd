"""The torch interpreter against ONNX's own reference evaluator and, on the real files, OpenCV's."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from common.models.vision import load_detector
from common.models.vision.interface import images_from
from common.models.vision.onnx_graph import OnnxModule


def constant(name: str, value) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def write(path, nodes, constants, channels: int = 4, size: int = 12, output_rank: int = 4):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * output_rank)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


RNG = np.random.default_rng(0)
W = RNG.normal(size=(6, 2, 3, 3)).astype(np.float32)
B = RNG.normal(size=6).astype(np.float32)
BIG = 2**63 - 1

CASES = {
    "grouped convolution, uneven padding": (
        [
            helper.make_node(
                "Conv", ["x", "w", "b"], ["y"], group=2, pads=[0, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3]
            )
        ],
        [constant("w", W), constant("b", B)],
    ),
    "dilated convolution without bias": (
        [
            helper.make_node(
                "Conv", ["x", "w"], ["y"], group=2, pads=[2, 2, 2, 2], dilations=[2, 2], kernel_shape=[3, 3]
            )
        ],
        [constant("w", W)],
    ),
    "pooling": (
        [
            helper.make_node("MaxPool", ["x"], ["m"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("AveragePool", ["m"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        [],
    ),
    "every other pixel": (
        [
            helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["s"]),
            helper.make_node("Concat", ["s", "s"], ["y"], axis=1),
        ],
        [constant("start", [1]), constant("end", [BIG]), constant("axis", [3]), constant("step", [2])],
    ),
    "arithmetic": (
        [
            helper.make_node("Sigmoid", ["x"], ["s"]),
            helper.make_node("Mul", ["x", "s"], ["m"]),
            helper.make_node("Relu", ["m"], ["r"]),
            helper.make_node("Add", ["r", "s"], ["a"]),
            helper.make_node("Softmax", ["a"], ["y"], axis=1),
        ],
        [],
    ),
    "nearest doubling": (
        [
            helper.make_node(
                "Resize",
                ["x", "", "scale"],
                ["y"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        [constant("scale", np.array([1, 1, 2, 2], np.float32))],
    ),
    "padding and order": (
        [
            helper.make_node("Pad", ["x", "pads"], ["p"]),
            helper.make_node("Transpose", ["p"], ["y"], perm=[0, 2, 3, 1]),
        ],
        [constant("pads", np.array([0, 0, 1, 2, 0, 0, 0, 3]))],
    ),
    "channel shuffle": (
        [
            helper.make_node("Reshape", ["x", "s1"], ["a"]),
            helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
            helper.make_node("Reshape", ["b", "s2"], ["c"]),
            helper.make_node("Gather", ["c", "first"], ["d"], axis=0),
            helper.make_node("Gather", ["c", "second"], ["e"], axis=0),
            helper.make_node("Concat", ["e", "d"], ["y"], axis=1),
        ],
        [
            constant("s1", np.array([2, 2, 144])),
            constant("s2", np.array([2, -1, 2, 12, 12])),
            constant("first", np.array(0)),
            constant("second", np.array(1)),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operators_equal_the_reference(case, tmp_path):
    path = write(tmp_path / "g.onnx", *CASES[case])
    x = RNG.normal(size=(1, 4, 12, 12)).astype(np.float32)
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    found = OnnxModule(path)(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_is_its_pictures_and_other_sizes_work(tmp_path):
    module = OnnxModule(write(tmp_path / "g.onnx", *CASES["channel shuffle"]))
    x = torch.randn(3, 4, 8, 10)
    together = module(x)
    assert together.shape == (3, 4, 8, 10)
    for index in range(3):
        torch.testing.assert_close(together[index : index + 1], module(x[index : index + 1]))


def test_bad_files(tmp_path):
    with pytest.raises(DataUnavailable, match="not there"):
        OnnxModule(tmp_path / "none.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 200)
    with pytest.raises(CorruptBitstream, match="not an ONNX model"):
        OnnxModule(tmp_path / "noise.onnx")
    path = write(tmp_path / "g.onnx", [helper.make_node("Erf", ["x"], ["y"])], [])
    with pytest.raises(ConfigError, match="Erf"):
        OnnxModule(path)


@pytest.mark.parametrize(
    ("name", "file", "size", "scale"),
    [("yolox_nano", "yolox_nano_416", 416, 255.0), ("fastestdet", "FastestDet_352", 352, 1.0)],
)
class TestRealFiles:
    def test_equal_to_opencv(self, model_root, name, file, size, scale):
        import cv2

        x = torch.rand(2, 3, size, size) * scale
        net = cv2.dnn.readNetFromONNX(str(model_root / "models" / f"{file}.onnx"))
        net.setInput(x[:1].numpy())
        expected = net.forward()
        with torch.no_grad():
            found = load_detector(name, model_root).graph(x)[:1].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_finds_the_woman_and_the_dog(self, model_root, name, file, size, scale):
        """A frame that shows them clearly (sam2_dog_720p); the places were read off the picture by eye."""
        from common.data.video import load_clip

        clip = load_clip(model_root / "video" / "sam2_dog_720p.mp4", start=60, count=1, height=360)
        detector = load_detector(name, model_root)
        (found,) = detector.detect(clip.frames)
        names = [detector.class_names[label] for label in found.classes]
        assert {"person", "dog"} <= set(names)
        centre = {n: (found.boxes[i, :2] + found.boxes[i, 2:]) / 2 for i, n in reversed(list(enumerate(names)))}
        assert np.abs(centre["person"] - [149, 158]).max() < 25
        assert np.abs(centre["dog"] - [533, 234]).max() < 25
        # The same at the picture's own size, where nothing is scaled.
        (native,) = load_detector(name, model_root, long_side=None).detect(clip.frames)
        assert "person" in [detector.class_names[label] for label in native.classes]

    def test_gradients_reach_the_picture(self, model_root, name, file, size, scale):
        detector = load_detector(name, model_root, long_side=96)
        images = images_from(
            np.random.default_rng(0).integers(0, 256, (1, 90, 130, 3), dtype=np.uint8)
        ).requires_grad_()
        _, scores = detector.candidates(images)
        (gradient,) = torch.autograd.grad(scores.sum(), images)
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).float().mean() > 0.8
