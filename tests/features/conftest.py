from __future__ import annotations

from pathlib import Path

import pytest

from harness.data import Sample
from tests.features.images import write_image
from tests.features.small import SmallExtractor


@pytest.fixture
def extractor() -> SmallExtractor:
    return SmallExtractor()


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    folder = tmp_path / "images"
    folder.mkdir()
    return [write_image(folder / f"{k:03}.png", k) for k in range(11)]
