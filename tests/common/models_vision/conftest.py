import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def model_root() -> Path:
    """A data root with ONNX models: that of NINEFOLD_DATA, or shared/data next to the checkout."""
    root = Path(os.environ.get("NINEFOLD_DATA", CHECKOUT.parent / "shared" / "data"))
    if not (root / "models" / "yolox_nano_416.onnx").is_file():
        pytest.skip(f"{root / 'models'} holds no yolox_nano_416.onnx: set NINEFOLD_DATA to a data root with models")
    return root
