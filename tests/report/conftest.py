from __future__ import annotations

import shutil
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parent / "checkout"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the synthetic checkout: its conf/ and a README with two markers."""
    return Path(shutil.copytree(_CHECKOUT, tmp_path / "checkout"))
