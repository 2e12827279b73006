from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.report.publish import publish
from tests.report.synthetic import complete, sweep

_CHECKOUT = Path(__file__).parent / "checkout"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the synthetic checkout: its conf/ and a README with empty tables."""
    return Path(shutil.copytree(_CHECKOUT, tmp_path / "checkout"))


@pytest.fixture(scope="session")
def _published_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(_CHECKOUT, tmp_path_factory.mktemp("once") / "checkout"))
    publish(folder, complete())
    return folder


@pytest.fixture(scope="session")
def _swept_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(_CHECKOUT, tmp_path_factory.mktemp("swept") / "checkout"))
    publish(folder, sweep())
    return folder


@pytest.fixture
def published(_published_once: Path, tmp_path: Path) -> Path:
    """A synthetic checkout whose table `parts_tiny` is complete, the other tables empty."""
    return Path(shutil.copytree(_published_once, tmp_path / "published"))


@pytest.fixture
def swept(_swept_once: Path, tmp_path: Path) -> Path:
    """A synthetic checkout filled by the mini sweep."""
    return Path(shutil.copytree(_swept_once, tmp_path / "swept"))
