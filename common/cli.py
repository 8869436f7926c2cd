"""What the command lines of the papers have in common: how an error ends a command."""

import sys
from collections.abc import Callable

from common.errors import ConfigError, ReproError


def exit_status(work: Callable[[], object]) -> int:
    """Run a command; its errors become one line on stderr and the exit status.

    Returns:
        0 done; 1 it failed (data missing or damaged, a file cannot be read); 2 a value was refused; 130 interrupted.
    """
    try:
        work()
    except ReproError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
