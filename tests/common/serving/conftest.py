"""Models for the serving tests."""

import pytest


@pytest.fixture(scope="session")
def small():
    """The bundled model, on one thread."""
    import torch

    from common.models.loading import ModelSpec, load

    torch.set_num_threads(1)
    return load(ModelSpec("small", device="cpu"))


@pytest.fixture(scope="session")
def tiny():
    """Random weights: fast, and its answers are as good as any where only their order matters."""
    import torch

    from common.models.loading import ModelSpec, load

    torch.set_num_threads(1)
    return load(ModelSpec("random_tiny", "random", device="cpu"))
