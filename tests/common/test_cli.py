"""Exit statuses and the one line on stderr."""

import argparse

import pytest

from common.cli import exit_status, port, positive, read_text
from common.errors import ConfigError, DataUnavailable


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("rate=3 is too high."), 2, "ConfigError: rate=3 is too high.\n"),
        (DataUnavailable("x is missing."), 1, "DataUnavailable: x is missing.\n"),
        (FileNotFoundError("no such file"), 1, "FileNotFoundError: no such file\n"),
        (DataUnavailable("it says\n  no\r\n"), 1, "DataUnavailable: it says no\n"),
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


def test_text_of_a_user_is_utf8_or_one_clear_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\nopen")
    assert read_text(path) == "caf\u00e9\nopen"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataUnavailable, match="not UTF-8 text"):
        read_text(path)
    with pytest.raises(DataUnavailable, match="does not exist"):
        read_text(tmp_path / "b.txt")
    with pytest.raises(DataUnavailable, match="cannot be read"):
        read_text(tmp_path)


@pytest.mark.parametrize(("convert", "good", "bad"), [(port, "0", "65536"), (port, "65535", "x"), (positive, "1", "0")])
def test_numbers_of_arguments(convert, good, bad):
    assert convert(good) == int(good)
    with pytest.raises(argparse.ArgumentTypeError, match=bad):
        convert(bad)
