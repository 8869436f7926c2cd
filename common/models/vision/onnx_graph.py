"""Runs small ONNX graphs of convolutional networks in torch: differentiable, any batch, any picture size their strides allow.

The `onnx` package parses the file; the operators below cover one-stage detectors of the YOLOX and FastestDet kind. Shapes that
an exporter baked in for one picture are made free: a leading 1 of a reshape becomes the batch, and the reshapes of channel
shuffles follow the picture's size.

Source: AccMPEG sheet, section 8.5.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError, CorruptBitstream, DataUnavailable

# fmt: off
OPERATORS = (
    "Add", "AveragePool", "Concat", "Constant", "Conv", "Gather", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize",
    "Sigmoid", "Slice", "Softmax", "Transpose",
)
# fmt: on


class OnnxModule(nn.Module):
    """A graph with one input and one output.

    Args:
        path: the .onnx file.

    Raises:
        DataUnavailable: there is no such file.
        CorruptBitstream: it is no ONNX model.
        ConfigError: it uses an operator that is not supported here.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper

        if not Path(path).is_file():
            raise DataUnavailable(
                f"model {str(path)!r} is not there. Set data.root to a data root that holds it under models/."
            )
        try:
            graph = onnx.load(str(path)).graph
        except DecodeError as error:
            raise CorruptBitstream(f"{path}: not an ONNX model, or cut short ({error}).") from error
        unknown = sorted({node.op_type for node in graph.node} - set(OPERATORS))
        if unknown or not graph.input or not graph.output:
            raise ConfigError(
                f"{path}: operators {', '.join(unknown) or '(no graph)'} are not supported; known: {', '.join(OPERATORS)}."
            )
        self._constants: dict[str, Tensor] = {}
        for number, stored in enumerate(graph.initializer):
            value = torch.from_numpy(np.array(numpy_helper.to_array(stored)))
            self._constants[stored.name] = value
            if value.is_floating_point():
                self.register_buffer(f"weight_{number}", value)
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._nodes = []
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self._constants[node.output[0]] = torch.from_numpy(np.array(numpy_helper.to_array(attributes["value"])))
            else:
                self._nodes.append((node.op_type, list(node.input), node.output[0], attributes))

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """The graph's output for an input in the graph's own format."""
        values: dict[str, Any] = dict(self._constants)
        values[self._input] = x_B3HW
        shuffled_size: Any = None
        for kind, inputs, output, attributes in self._nodes:
            given: list[Any] = [values.get(name) for name in inputs]
            if kind == "Reshape":
                shape = [int(v) for v in given[1]]
                if len(shape) == 3 and shape[1] == 2 and given[0].ndim == 4:  # a channel shuffle begins
                    shuffled_size = given[0].shape[2:]
                    shape = [-1, 2, int(np.prod(shuffled_size))]
                elif len(shape) == 5 and shuffled_size is not None:  # and ends
                    shape = [shape[0], -1, shape[2], *shuffled_size]
                elif shape[0] == 1:
                    shape[0] = x_B3HW.shape[0]
                values[output] = given[0].reshape([given[0].shape[i] if v == 0 else v for i, v in enumerate(shape)])
            else:
                values[output] = _apply(kind, given, attributes)
        result: Tensor = values[self._output]
        return result


def _apply(kind: str, given: list[Any], attributes: dict[str, Any]) -> Tensor:
    x = given[0]
    if kind == "Conv":
        x, padding = _padded(x, attributes)
        bias = given[2] if len(given) > 2 else None
        strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
        return functional.conv2d(x, given[1], bias, strides, padding, dilations, attributes.get("group", 1))
    if kind == "MaxPool":
        x, padding = _padded(x, attributes, float("-inf"))
        return functional.max_pool2d(
            x, attributes["kernel_shape"], attributes.get("strides"), padding, ceil_mode=_ceil(attributes)
        )
    if kind == "AveragePool":
        padding = attributes.get("pads", [0] * 4)[:2]
        counts = bool(attributes.get("count_include_pad", 0))
        return functional.avg_pool2d(
            x, attributes["kernel_shape"], attributes.get("strides"), padding, _ceil(attributes), counts
        )
    if kind == "Relu":
        return x.relu()
    if kind == "Sigmoid":
        return x.sigmoid()
    if kind == "Softmax":
        return x.softmax(attributes.get("axis", -1))
    if kind == "Add":
        return x + given[1]
    if kind == "Mul":
        return x * given[1]
    if kind == "Concat":
        return torch.cat(given, attributes["axis"])
    if kind == "Transpose":
        return x.permute(*attributes["perm"])
    if kind == "Gather":
        axis, index = attributes.get("axis", 0), given[1]
        return x.select(axis, int(index)) if index.ndim == 0 else x.index_select(axis, index)
    if kind == "Slice":
        return _slice(x, *given[1:])
    if kind == "Pad":
        before_after = [int(v) for v in (given[1] if len(given) > 1 else attributes["pads"])]
        half = len(before_after) // 2
        pairs = [(before_after[axis], before_after[axis + half]) for axis in range(half)]
        return functional.pad(x, [side for pair in reversed(pairs) for side in pair])
    assert kind == "Resize", kind  # the constructor refuses everything else
    mode = attributes.get("mode", b"nearest").decode().replace("linear", "bilinear")
    align = None if mode == "nearest" else attributes.get("coordinate_transformation_mode", b"") == b"align_corners"
    scales = given[2] if len(given) > 2 else None
    if scales is not None and scales.numel():
        return functional.interpolate(
            x, scale_factor=(float(scales[2]), float(scales[3])), mode=mode, align_corners=align
        )
    return functional.interpolate(x, size=[int(v) for v in given[3][2:]], mode=mode, align_corners=align)


def _ceil(attributes: dict[str, Any]) -> bool:
    return bool(attributes.get("ceil_mode", 0))


def _padded(x: Tensor, attributes: dict[str, Any], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Padding that torch can be told, or the input padded by hand where the two sides differ."""
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    if (top, left) == (bottom, right):
        return x, [top, left]
    return functional.pad(x, (left, right, top, bottom), value=value), [0, 0]


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    chosen = [slice(None)] * x.ndim
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = int(axes[number]) if axes is not None else number
        step = int(steps[number]) if steps is not None else 1
        chosen[axis] = slice(int(start), min(int(end), x.shape[axis]), step)
    return x[tuple(chosen)]
