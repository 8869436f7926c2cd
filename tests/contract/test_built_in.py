"""Our own methods and workloads keep the contract that a stranger's must keep."""

from experiments.contract.test_contract import pytest_generate_tests, test_contract

__all__ = ["pytest_generate_tests", "test_contract"]
