"""From one backward pass to the gradient of accuracy for every knob: DNNGrad times InputGrad.

    G      block means of sum_ch |du/dx| on the last element of the interval       (DNNGrad; server, one backward pass)
    err(c) = sum over pixels of G * mean over elements of sum_ch |x(c) - x_ref|     (camera, no network)
    AccGrad_k = (err(next cheaper value of k) - err(c)) / Delta_k                   (InputGrad is the change of x inside err)

The paper's objective needs absolute accuracy; err has the unit of u (confident results). Divided by u of the interval it is a
share of results at risk; times a constant `scale`, learned once from a short profiling run, an estimate of accuracy lost.

x_ref is x(c*) in the released code. Then err(c*) = 0, and a knob's first step is charged with the coding noise of c* itself,
which the results at c* hold too; against the sensor's own x there is no such jump (`reference_of`).
"""

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from oneadapt.api import Delivery, Saliency
from oneadapt.inputs import FloatArray

Reference = Literal["best", "sensor"]
"""What an interval's input is compared with, see the module's head."""


def block_mean(map_HW: FloatArray, block: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Means over blocks, (ceil(H / rows), ceil(W / columns)); blocks at the edge may be smaller."""
    return _block_sum(map_HW, block) / _block_sum(np.ones(map_HW.shape, np.float32), block)


def _block_sum(map_HW: npt.NDArray[np.float32], block: tuple[int, int]) -> npt.NDArray[np.float64]:
    rows = np.arange(0, map_HW.shape[0], block[0])
    columns = np.arange(0, map_HW.shape[1], block[1])
    return np.add.reduceat(np.add.reduceat(map_HW.astype(np.float64), rows, 0), columns, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Gradient:
    """A block-averaged DNNGrad, as the server sends it to the camera.

    Attributes:
        mean_RC: mean of sum_ch |du/dx| per block.
        block: rows and columns of a block.
        utility: u where the gradient was taken.
        num_near: results near the threshold there.
    """

    mean_RC: npt.NDArray[np.float64]
    block: tuple[int, int]
    utility: float
    num_near: int

    @classmethod
    def of(cls, saliency: Saliency, block: tuple[int, int]) -> "Gradient":
        """From one backward pass."""
        return cls(block_mean(saliency.gradient_HW, block), block, saliency.utility, saliency.num_near)

    @property
    def num_bytes(self) -> int:
        """On the way to the camera, 8 bits a block."""
        return self.mean_RC.size

    def block_errors(self, x_NHWC: FloatArray, reference_NHWC: FloatArray) -> npt.NDArray[np.float64]:
        """err per block, (R, C): G times the summed difference, averaged over elements."""
        # Elements first: a sum over three neighbouring numbers per pixel takes five times as long over all elements.
        difference_NHWC = x_NHWC - reference_NHWC
        difference_HW = np.abs(difference_NHWC, out=difference_NHWC).mean(0).sum(-1)
        return self.mean_RC * _block_sum(difference_HW, self.block)

    def error(self, x_NHWC: FloatArray, reference_NHWC: FloatArray) -> float:
        """err(c), in units of u."""
        return float(self.block_errors(x_NHWC, reference_NHWC).sum())

    def risk(self, x_NHWC: FloatArray, reference_NHWC: FloatArray) -> float:
        """err(c) as a share of the confident results."""
        return self.error(x_NHWC, reference_NHWC) / max(self.utility, 1.0)


EQUAL = 1e-5
"""Two encodes whose inputs differ by less than this on average give a gradient of 0 (official code)."""


def reference_of(reference: Reference, sensor_NHWC: FloatArray, best: Delivery) -> FloatArray:
    """x_ref of an interval: the sensor's own input ("sensor"), or what arrives at the best setting ("best")."""
    # DEVIATION oneadapt-7: method oneadapt measures against the sensor's data, oneadapt_plain against x(c*).
    return sensor_NHWC if reference == "sensor" else best.x


def accuracy_gradient(
    gradient: Gradient, dear: Delivery, cheap: Delivery, reference_NHWC: FloatArray, delta: float
) -> float:
    """AccGrad of one knob between two neighbouring values, in shares of results per unit of state.

    Args:
        gradient: DNNGrad.
        dear, cheap: the interval at the more and the less expensive value.
        reference_NHWC: x_ref of the interval.
        delta: distance of the two values' states.
    """
    if float(np.abs(dear.x - cheap.x).mean()) < EQUAL:
        return 0.0
    return (gradient.risk(cheap.x, reference_NHWC) - gradient.risk(dear.x, reference_NHWC)) / delta
