"""The tasks by name."""

from chameleonapi.tasks.everyday import EverydayTask
from chameleonapi.tasks.task import Task
from chameleonapi.tasks.topics import TopicTask
from common.errors import UnknownName


def task_named(name: str) -> Task:
    """The bundled task called `name`. Raises UnknownName if there is none."""
    known: dict[str, type] = {"everyday": EverydayTask, "topics": TopicTask}
    if name not in known:
        raise UnknownName(f"unknown task {name!r}. Known: {', '.join(sorted(known))}")
    task: Task = known[name]()
    return task
