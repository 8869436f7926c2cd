"""The bundled provider of a task: shipped models and the pool of labelled examples they were trained on."""

from functools import lru_cache

from chameleonapi.pretrain import FOLDER, POOL_SEED, POOL_SIZE, TEXT_POOL_SIZE, shipped
from chameleonapi.tasks.task import Examples, Task
from chameleonapi.tasks.tasks import task_named
from chameleonapi.training import Provider
from common.cache import sha256_of_file


@lru_cache(maxsize=4)
def training_pool(task_name: str) -> Examples:
    """The examples that the task's generic model was trained on."""
    size = TEXT_POOL_SIZE if task_name == "topics" else POOL_SIZE
    return task_named(task_name).examples("train", POOL_SEED, size)


@lru_cache(maxsize=8)
def bundled_provider(task_name: str) -> Provider:
    """The provider of a bundled task, "everyday" or "topics". Raises ConfigError if a model is not shipped."""
    task: Task = task_named(task_name)
    prefix = "topics_" if task_name == "topics" else ""
    others = tuple(shipped(f"{prefix}other_provider_{x}") for x in "bc")
    categorized = {name: shipped(f"{prefix}category_{name}") for name in task.categories}
    return Provider(task, shipped(f"{prefix}generic"), others, categorized, training_pool(task_name))


def model_hashes(task_name: str) -> dict[str, str]:
    """SHA-256 of the shipped model files of a task, by name."""
    is_text = task_name == "topics"
    return {
        path.stem: sha256_of_file(path)
        for path in sorted(FOLDER.glob("*.safetensors"))
        if path.stem.startswith("topics_") == is_text
    }
