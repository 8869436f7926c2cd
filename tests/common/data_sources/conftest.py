import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def text_root() -> Path:
    """The folder `text` of a data root: that of NINEFOLD_DATA, or shared/data next to the checkout."""
    root = Path(os.environ.get("NINEFOLD_DATA", CHECKOUT.parent / "shared" / "data")) / "text"
    if not root.is_dir():
        pytest.skip(f"no real text at {root}; set NINEFOLD_DATA to a data root (docs/data.md)")
    return root
