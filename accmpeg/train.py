"""Making AccModel for a DNN: accuracy gradients of some images once, then a few minutes of training (AccMPEG, training).

    images -> DNN forward + backward (once, kept on disk) -> gradient per macroblock -> 0/1 -> weighted cross-entropy -> AccModel

The images need not come from the camera that will be used. Everything that is random comes from one seed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from accmpeg import accmodel
from accmpeg.accgrad import Target, check_target
from accmpeg.accmodel import AccModel, AccModelSettings
from accmpeg.api import Frames
from accmpeg.assignment import check_qps
from accmpeg.dnn import Dnn, images_of
from common.errors import ConfigError
from common.rng import for_component, seed_for

Clock = Callable[[], float]
Say = Callable[[str], None]
# Thresholds that a tenth and half of the held-out macroblocks exceed, whatever the DNN: those of the AccModel for "street".
_P_OF_TENTH, _P_OF_HALF = 0.715, 0.092


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How AccModel is made.

    Attributes:
        target: "paper" or "official" accuracy gradient.
        qp_hi, qp_lo: the two qualities.
        width, depth: of the network.
        positive_share: share of all training macroblocks whose gradient makes them positives.
        positive_weight: weight of positives in the loss, to favour recall.
        learning_rate, batch_size: of Adam.
        validation_share: of the images.
        patience: stop after so many epochs without a better validation loss.
        max_epochs: at most.
        seed: of split, initial weights and order.
    """

    target: Target = "paper"
    qp_hi: int = 30
    qp_lo: int = 40
    width: int = 24
    depth: int = 3
    positive_share: float = 0.15
    positive_weight: float = 3.0
    learning_rate: float = 2e-3
    batch_size: int = 8
    validation_share: float = 0.3
    patience: int = 4
    max_epochs: int = 14
    seed: int = 100

    def __post_init__(self) -> None:
        check_target(self.target)
        check_qps((self.qp_hi, self.qp_lo))
        if not 0 < self.positive_share < 1 or not 0 < self.validation_share < 1 or not self.positive_weight > 0:
            raise ConfigError(
                f"positive_share={self.positive_share} and validation_share={self.validation_share} must be between 0 and 1, "
                f"positive_weight={self.positive_weight} above 0."
            )
        if self.batch_size < 1 or self.patience < 1 or self.max_epochs < 1 or not self.learning_rate > 0:
            raise ConfigError("batch_size, patience, max_epochs and learning_rate must be positive.")


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch's losses: means over images, per macroblock.

    Attributes:
        seconds: CPU time since training began, validation included.
    """

    number: int
    training_loss: float
    validation_loss: float
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What a training gave.

    Attributes:
        model: the weights of the best epoch, in eval mode.
        epochs: in order.
        recall, precision: of positives at p > 0.5 on the validation images, before p is scaled.
    """

    model: AccModel
    epochs: tuple[Epoch, ...]
    recall: float
    precision: float


def threshold_of(gradients_NRC: npt.NDArray[np.floating], positive_share: float) -> float:
    """The gradient that `positive_share` of all macroblocks exceed."""
    # DEVIATION accmpeg-7: a quantile instead of the official code's constant 3, which holds for one DNN and input scale only.
    return float(np.quantile(np.asarray(gradients_NRC, dtype=np.float64), 1 - positive_share))


def gradients_of(
    frames: Frames, dnn: Dnn, settings: TrainingSettings, folder: Path | None = None, say: Say = lambda _: None
) -> npt.NDArray[np.float32]:
    """Accuracy gradients of all images, (N, R, C): computed once, and read back from `folder` when asked for again."""
    from safetensors.numpy import load_file, save_file

    facts = [dnn.name, dnn.weights_sha256, settings.target, settings.qp_hi, settings.qp_lo, list(frames.shape)]
    key = hashlib.sha256(json.dumps(facts).encode() + frames.tobytes()).hexdigest()[:16]
    path = None if folder is None else folder / f"gradients-{key}.safetensors"
    if path is not None and path.is_file():
        return np.asarray(load_file(path)["gradients"])
    found = []
    for start in range(0, len(frames), 8):
        part = frames[start : start + 8]
        found.append(dnn.accuracy_gradient(part, settings.target, settings.qp_hi, settings.qp_lo))
        if start % 80 == 72:
            say(f"gradients of {start + len(part)}/{len(frames)} images")
    gradients = np.concatenate(found)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"gradients": gradients}, path)
    return gradients


def train(
    frames: Frames,
    gradients_NRC: npt.NDArray[np.floating],
    settings: TrainingSettings,
    clock: Clock,
    *,
    detector: str = "",
    say: Say = lambda _: None,
) -> Trained:
    """Train AccModel on raw images and their accuracy gradients.

    Args:
        frames: raw pictures, (N, H, W, 3); N >= 2.
        gradients_NRC: as `gradients_of` gives them.
        clock: CPU seconds.
        detector: name of the DNN, stored with the weights.
        say: called with a line per epoch.

    Raises:
        ConfigError: too few images, or shapes that do not belong together.
    """
    num_images = len(frames)
    num_validation = round(num_images * settings.validation_share)
    if not 1 <= num_validation < num_images or len(gradients_NRC) != num_images:
        raise ConfigError(
            f"{num_images} images with {len(gradients_NRC)} gradient maps, {num_validation} of them for validation: "
            "give at least four images and a map for each."
        )
    order = for_component(settings.seed, "accmodel split").permutation(num_images)
    validation, training = np.sort(order[:num_validation]), order[num_validation:]
    threshold = threshold_of(gradients_NRC[training], settings.positive_share)
    target_NRC = torch.from_numpy(np.asarray(gradients_NRC) > threshold).long()
    weight_2 = torch.tensor([1.0, settings.positive_weight])
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed_for(settings.seed, "accmodel weights"))
        model = AccModel(
            AccModelSettings(
                settings.width,
                settings.depth,
                detector,
                settings.target,
                settings.qp_hi,
                settings.qp_lo,
                threshold,
            )
        )
    optimiser = torch.optim.Adam(model.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, patience=1, factor=0.5)
    shuffle = for_component(settings.seed, "accmodel order")
    best: tuple[float, dict[str, Any], tuple[float, float]] | None = None
    epochs: list[Epoch] = []
    begin_s = clock()
    for number in range(1, settings.max_epochs + 1):
        model.train()
        total = 0.0
        for chosen in _batches(shuffle.permutation(training), settings.batch_size):
            images = images_of(frames[chosen]) * float(shuffle.uniform(0.9, 1.1))
            target = target_NRC[chosen]
            if shuffle.random() < 0.5:
                images, target = images.flip(-1), target.flip(-1)
            loss = functional.cross_entropy(model(images), target, weight_2)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(chosen)
        validation_loss, rates = _validate(model, frames, target_NRC, validation, weight_2)
        schedule.step(validation_loss)
        epochs.append(Epoch(number, total / len(training), validation_loss, clock() - begin_s))
        say(f"epoch {number}: training loss {total / len(training):.4f}, validation loss {validation_loss:.4f}")
        if best is None or validation_loss < best[0]:
            best = (validation_loss, {name: value.clone() for name, value in model.state_dict().items()}, rates)
        elif number - 1 - min(range(len(epochs)), key=lambda at: epochs[at].validation_loss) >= settings.patience:
            break
    assert best is not None
    model.load_state_dict(best[1])
    model.eval()
    scale_to_shares(model, frames[validation])
    return Trained(model, tuple(epochs), *best[2])


@torch.no_grad()
def scale_to_shares(model: AccModel, frames: Frames) -> None:
    """Scale the logits so that p exceeds 0.715 in a tenth and 0.092 in half of the macroblocks of these frames.

    The order of macroblocks stays. Without it a threshold would mark another share of the blocks for every DNN: p depends on the
    weights of the loss, and on how far training went.

    Args:
        model: in eval mode; its last layer is changed.
        frames: (N, H, W, 3), held out of training.
    """
    # DEVIATION accmpeg-9: p is scaled to shares of macroblocks, so that the same thresholds serve every DNN.
    p = np.concatenate([model.probabilities(frames[start : start + 8]).ravel() for start in range(0, len(frames), 8)])
    tenth, half = (_logit(float(value)) for value in np.quantile(p.astype(np.float64), (0.9, 0.5)))
    if tenth <= half:  # it says the same of every block: no scale mends that
        return
    scale = (_logit(_P_OF_TENTH) - _logit(_P_OF_HALF)) / (tenth - half)
    model.head.weight.mul_(scale)
    assert model.head.bias is not None
    model.head.bias.mul_(scale)
    model.head.bias[1] += _logit(_P_OF_TENTH) - scale * tenth


def _logit(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return float(np.log(p / (1 - p)))


def _batches(order: npt.NDArray[np.intp], size: int) -> Iterator[npt.NDArray[np.intp]]:
    for start in range(0, len(order), size):
        if len(order) - start > 1 or start == 0:  # one image alone would be its own batch statistics
            yield order[start : start + size]


@torch.inference_mode()
def _validate(
    model: AccModel,
    frames: Frames,
    target_NRC: torch.Tensor,
    chosen: npt.NDArray[np.intp],
    weight_2: torch.Tensor,
) -> tuple[float, tuple[float, float]]:
    """Loss, and recall and precision of positives at p > 0.5."""
    model.eval()
    total, hits, found, positives = 0.0, 0, 0, 0
    for batch in _batches(chosen, 8):
        logits = model(images_of(frames[batch]))
        target = target_NRC[batch]
        total += float(functional.cross_entropy(logits, target, weight_2)) * len(batch)
        said = logits[:, 1] > logits[:, 0]
        hits += int((said & (target == 1)).sum())
        found += int(said.sum())
        positives += int(target.sum())
    return total / len(chosen), (hits / max(positives, 1), hits / max(found, 1))


def customise(
    frames: Frames,
    dnn: Dnn,
    settings: TrainingSettings,
    out: Path,
    clock: Clock,
    say: Say,
    source: str = "rendered streets",
) -> dict[str, Any]:
    """Everything for a new DNN: gradients, training, weights and a log in a folder.

    Args:
        frames, dnn, settings, clock, say: see `gradients_of` and `train`.
        out: the folder.
        source: where the images are from, for the log.

    Returns:
        The log: settings, number of images, seconds of both steps, epochs, recall and precision.
    """
    begin_s = clock()
    gradients = gradients_of(frames, dnn, settings, out, say)
    gradient_s = clock() - begin_s
    trained = train(frames, gradients, settings, clock, detector=dnn.name, say=say)
    name = f"{dnn.name}-{settings.target}"
    accmodel.save(trained.model, out / f"{name}.safetensors")
    height, width = frames.shape[1:3]
    log = {
        "detector": dnn.name,
        "detector_sha256": dnn.weights_sha256,
        "settings": dataclasses.asdict(settings),
        "images": source,
        "num_images": len(frames),
        "height": height,
        "width": width,
        "num_parameters": trained.model.num_parameters(),
        "multiply_adds": trained.model.multiply_adds(height, width),
        "gradient_seconds": round(gradient_s, 1),
        "training_seconds": round(trained.epochs[-1].seconds, 1),
        "recall": round(trained.recall, 4),
        "precision": round(trained.precision, 4),
        "threshold": trained.model.settings.threshold,
        "epochs": [dataclasses.asdict(epoch) for epoch in trained.epochs],
    }
    (out / f"{name}.json").write_text(json.dumps(log, indent=1) + "\n")
    return log
