import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def data_root() -> Path:
    """A data root with videos: that of NINEFOLD_DATA, or shared/data next to the checkout."""
    root = Path(os.environ.get("NINEFOLD_DATA", CHECKOUT.parent / "shared" / "data"))
    if not (root / "video").is_dir():
        pytest.skip(f"{root / 'video'} is not there: set NINEFOLD_DATA to a data root with real clips")
    return root
