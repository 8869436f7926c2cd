"""What a command prints while it works: a progress bar on a terminal, a line now and then in a log."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_console = Console(stderr=True, highlight=False, soft_wrap=True)
_LOG_INTERVAL_S = 10.0


def say(text: str, *, is_error: bool = False) -> None:
    """Print one line to stderr, red on a terminal if it is an error."""
    _console.print(text, style="red" if is_error else None, markup=False)


class Progress:
    """Progress of one run after another. A context manager; on a terminal it draws a bar, elsewhere it prints lines."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = RichProgress(*columns, console=_console, transient=True) if _console.is_terminal else None
        self._task: object = None
        self._name = ""
        self._total = self._done = self._done_at_start = 0
        self._started_s = self._printed_s = 0.0

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, name: str, total: int, done: int) -> None:
        """Begin a run of `total` items of which `done` are finished already. May be called once per run."""
        self._name, self._total, self._done, self._done_at_start = name, total, done, done
        self._started_s = self._printed_s = time.monotonic()
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=total, completed=done)

    def advance(self, item: str) -> None:
        """One more item is finished."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)  # type: ignore[arg-type]
            return
        now_s = time.monotonic()
        if now_s - self._printed_s >= _LOG_INTERVAL_S:
            self._printed_s = now_s
            spent_s = now_s - self._started_s
            left_s = spent_s / max(1, self._done - self._done_at_start) * max(0, self._total - self._done)
            say(f"{self._name}: {self._done}/{self._total} items, {spent_s:.0f} s, about {left_s:.0f} s left")

    def finish(self) -> None:
        """The run is over; take its bar away and say how long it took."""
        if self._name:
            say(f"{self._name}: {self._done}/{self._total} items in {time.monotonic() - self._started_s:.1f} s")
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)  # type: ignore[arg-type]
        self._task, self._name = None, ""

    def print_traceback(self) -> None:
        """Show where the exception being handled came from (an error of ours, not of the user's)."""
        if sys.exc_info()[0] is not None:
            _console.print_exception(max_frames=20)
