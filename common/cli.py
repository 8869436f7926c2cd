"""What the command lines of the papers have in common: how an error ends a command."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from common.data import records
from common.errors import ConfigError, ReproError


def exit_status(work: Callable[[], object]) -> int:
    """Run a command; its errors become one line on stderr and the exit status.

    Returns:
        0 done; 1 it failed (data missing or damaged, a file cannot be read); 2 a value was refused; 130 interrupted.
    """
    try:
        work()
    except ReproError as error:
        print(_line(error), file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        print(_line(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _line(error: Exception) -> str:
    # What a server or another library says may hold line ends.
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file that a user named; a byte-order mark is left out, line ends are "\\n".

    Raises:
        DataUnavailable: no file, unreadable, or not UTF-8.
    """
    return records.read_text(path, "Name a text file in UTF-8.")


def port(text: str) -> int:
    """A port number, as the `type` of an argument: 0 (any free one) to 65535."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 0 (any free one) to 65535")
    return number


def positive(text: str) -> int:
    """A whole number of 1 or more, as the `type` of an argument."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number
