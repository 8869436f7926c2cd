"""An experiment that costs nothing, for tests of sweeps: it counts, and dies or fails when told to."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chatterbox.api import EXPERIMENTS
from common.experiment import Run
from common.results import ItemRows, Row


@EXPERIMENTS.add("count")
@dataclass(frozen=True)
class Count:
    """Item i has the value i; `at_item` says where the process is killed, once: `marker` is left behind."""

    kill_seed: int = -1
    fail_seed: int = -1
    marker: str = ""

    def rows(self, run: Run) -> Iterator[ItemRows]:
        for index, _ in run.todo(enumerate(range(run.num_items))):
            if index == 2 and run.seed == self.fail_seed:
                raise ValueError("told to fail")
            if index == 2 and run.seed == self.kill_seed and not Path(self.marker).exists():
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield ItemRows(index, [Row("count", float(index), "1", "measured", method="count")])
