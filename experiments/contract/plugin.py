"""Pytest plug-in (entry point `ninefold`): adds `--contract MODULE`. Imports nothing heavy."""

import os
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    group = parser.getgroup("ninefold")
    group.addoption(
        "--contract",
        action="append",
        default=[],
        metavar="MODULE",
        help="check the methods and workloads that MODULE registers against ninefold's contracts (repeatable)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """With --contract and no paths of the user's own, collect the contract checks alone."""
    if config.getoption("--contract") and not config.option.file_or_dir:
        sys.path.insert(0, os.getcwd())  # the module being checked lies in the folder one works in
        config.args = [str(Path(__file__).parent / "test_contract.py")]
