"""Exit statuses and the one line on stderr."""

import pytest

from common.cli import exit_status
from common.errors import ConfigError, DataUnavailable


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("rate=3 is too high."), 2, "ConfigError: rate=3 is too high.\n"),
        (DataUnavailable("x is missing."), 1, "DataUnavailable: x is missing.\n"),
        (FileNotFoundError("no such file"), 1, "FileNotFoundError: no such file\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_one_line_and_a_status(error, status, line, capsys):
    def work():
        raise error

    assert exit_status(work) == status
    assert capsys.readouterr().err == line


def test_done_is_zero_and_a_defect_stays_a_traceback():
    assert exit_status(lambda: "anything") == 0
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 / 0)
