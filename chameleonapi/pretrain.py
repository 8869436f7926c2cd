"""Train the provider's models that the repository ships: `python -m chameleonapi.pretrain [NAME ...]`.

    generic           the provider's model for everybody: one network for all labels
    other_provider_*  generic models that differ in seed, width, bottleneck and training data: the other providers
    category_*        one specialised model per category of labels, fine-tuned from the generic one
    topics_*          the same for texts

Generic networks of a task are all trained in the same way for as many images: binary cross entropy, Adam, one cycle. Seeds,
settings, loss of each epoch, mean average precision and time are written to a card beside the weights.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chameleonapi.networks import Architecture, Network, load, save
from chameleonapi.tasks import everyday, topics
from chameleonapi.tasks.task import Examples
from chameleonapi.tasks.tasks import task_named
from common.errors import ConfigError
from common.rng import for_component

FOLDER = Path(str(files("chameleonapi"))) / "pretrained"
POOL_SEED = 1000  # of the training images; never a run's seed
POOL_SIZE = 16_000
TEXT_POOL_SIZE = 8_000
HELD_OUT_SEED = 2000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one shipped network is made.

    Attributes:
        task: "everyday" or "topics".
        category: labels of this category only; "" for all.
        bottleneck, width: of the network.
        pool_seed, pool_size: the training examples.
        epochs, batch, rate: of the training; rate is the one-cycle schedule's highest.
        seed: of weights and order.
        start: name of the network whose trunk and bottleneck to start from; "" for random weights.
    """

    task: str = "everyday"
    category: str = ""
    bottleneck: int = 10
    width: int = 48
    pool_seed: int = POOL_SEED
    pool_size: int = POOL_SIZE
    epochs: int = 10
    batch: int = 100
    rate: float = 1e-2
    seed: int = 0
    start: str = ""


def recipes() -> dict[str, Recipe]:
    """Everything that is shipped, by name."""
    text = Recipe(task="topics", bottleneck=6, width=24, pool_size=TEXT_POOL_SIZE, epochs=12)
    out = {
        "generic": Recipe(),
        "other_provider_b": Recipe(seed=1, width=56, pool_seed=POOL_SEED + 1),
        "other_provider_c": Recipe(seed=2, bottleneck=12, width=40, pool_seed=POOL_SEED + 2),
    }
    tuned = Recipe(start="generic", epochs=4, rate=4e-3)
    out |= {f"category_{name}": dataclasses.replace(tuned, category=name) for name in everyday.CATEGORIES}
    out |= {
        "topics_generic": text,
        "topics_other_provider_b": dataclasses.replace(text, seed=1, width=32, pool_seed=POOL_SEED + 1),
        "topics_other_provider_c": dataclasses.replace(text, seed=2, bottleneck=7, pool_seed=POOL_SEED + 2),
    }
    tuned = dataclasses.replace(text, start="topics_generic", epochs=6, rate=4e-3)
    out |= {f"topics_category_{name}": dataclasses.replace(tuned, category=name) for name in topics.CATEGORIES}
    return out


def mean_average_precision(scores_NC: Tensor, labels_NC: Tensor) -> float:
    """Mean over labels of the average precision, over labels that are true at least once.

    Average precision: mean over the true inputs of the precision at their rank; ties keep the order of the inputs.

    Raises:
        ConfigError: no label is true anywhere.
    """
    order_NC = torch.argsort(scores_NC, dim=0, descending=True, stable=True)
    hits_NC = labels_NC.to(torch.float64).gather(0, order_NC)
    precision_NC = hits_NC.cumsum(0) / torch.arange(1, len(hits_NC) + 1, dtype=torch.float64)[:, None]
    counts_C = hits_NC.sum(0)
    if not bool((counts_C > 0).any()):
        raise ConfigError("mean average precision needs at least one true label.")
    return float(((precision_NC * hits_NC).sum(0)[counts_C > 0] / counts_C[counts_C > 0]).mean())


def train(recipe: Recipe, pool: Examples, log: Any = None, start: Network | None = None) -> tuple[Network, list[float]]:
    """A network by its recipe, and the mean loss of each epoch.

    Args:
        recipe: how.
        pool: the examples, with all labels of the task.
        log: called with a line for each epoch.
        start: a network whose trunk and bottleneck to start from; the head is always new.
    """
    task = task_named(recipe.task)
    labels = task.categories[recipe.category] if recipe.category else task.labels
    columns = [task.labels.index(label) for label in labels]
    targets_NC = pool.labels_NC[:, columns].float()
    kind = "words" if recipe.task == "topics" else "convolution"
    num_words = len(topics.dictionary()) + 2 if kind == "words" else 0
    architecture = Architecture(kind, tuple(labels), recipe.bottleneck, recipe.width, num_words, recipe.task)
    rng = for_component(recipe.seed, "chameleonapi", "pretrain", recipe.category)
    network = Network(architecture).initialise(rng, float(targets_NC.sum(1).mean()))
    if start is not None:
        network.trunk.load_state_dict(start.trunk.state_dict())
        network.bottleneck.load_state_dict(start.bottleneck.state_dict())
    optimiser = torch.optim.Adam(network.parameters(), recipe.rate)
    steps_per_epoch = math.ceil(len(pool) / recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, recipe.epochs * steps_per_epoch)
    losses = []
    network.train()
    for epoch in range(recipe.epochs):
        total = 0.0
        for rows in torch.from_numpy(rng.permutation(len(pool))).split(recipe.batch):
            logits_NC = network(pool.inputs[rows])
            loss = nn.functional.binary_cross_entropy_with_logits(logits_NC, targets_NC[rows], reduction="sum") / len(
                rows
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(pool))
        if log is not None:
            log(f"epoch {epoch + 1} of {recipe.epochs}: loss {losses[-1]:.4f}")
    return network.eval(), losses


def make(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Train, score and write one of `recipes`; returns its card."""
    recipe = recipes()[name]
    task = task_named(recipe.task)
    start_s = time.process_time()
    pool = task.examples("train", recipe.pool_seed, recipe.pool_size)
    start = load(folder / f"{recipe.start}.safetensors") if recipe.start else None
    network, losses = train(recipe, pool, lambda line: print(name, line, flush=True), start)
    cpu_s = time.process_time() - start_s
    held_out = task.examples("test", HELD_OUT_SEED, 4000)
    columns = [task.labels.index(label) for label in network.labels]
    card = {
        "name": name,
        "recipe": dataclasses.asdict(recipe),
        "num_parameters": network.num_parameters(),
        "loss_by_epoch": [round(loss, 5) for loss in losses],
        "test_map": round(mean_average_precision(network.scores(held_out.inputs), held_out.labels_NC[:, columns]), 4),
        "chance_map": round(float(held_out.labels_NC[:, columns].float().mean()), 4),
        "test_examples": len(held_out),
        "cpu_seconds": round(cpu_s, 1),
        "torch": torch.__version__.partition("+")[0],
        "threads": torch.get_num_threads(),
    }
    save(network, folder / f"{name}.safetensors", card)
    (folder / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")
    return card


def shipped(name: str) -> Network:
    """One of the shipped networks.

    Raises:
        ConfigError: no such name.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.safetensors")))
        raise ConfigError(
            f"model {name!r} is not shipped. Known: {known}. `python -m chameleonapi.pretrain NAME` trains one."
        )
    return load(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is named; without names everything that is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m chameleonapi.pretrain", description="Train the shipped models.")
    parser.add_argument("names", nargs="*", choices=[[], *recipes()], help="default: those that are missing")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    names = options.names or [name for name in recipes() if not (options.folder / f"{name}.safetensors").is_file()]
    for name in names:
        card = make(name, options.folder)
        print(
            f"{name}: mAP {card['test_map']:.3f} (chance {card['chance_map']:.3f}), {card['cpu_seconds']:.0f} CPU s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
