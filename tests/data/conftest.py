"""Small synthetic datasets, copied for each test that changes them."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config import DatasetConfig
from harness.data import fetch
from harness.data.load import dataset_settings
from harness.data.official import PUBLISHED
from harness.data.synthetic import as_published, write_synthetic
from tests.data.serving import Server
from tests.data.small import CATEGORY, PLAN


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch) -> Path:
    """Keep the tests out of the user's own cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def _small_is_official(monkeypatch):
    """Let the synthetic datasets pass for the published ones."""
    for name in CATEGORY:
        monkeypatch.setitem(PUBLISHED, name, as_published(name, PLAN))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> Path:
    """Return a folder with one category of each layout; not to be changed."""
    base = tmp_path_factory.mktemp("pristine")
    for name, category in CATEGORY.items():
        write_synthetic(base / name, name, categories=[category], plan=PLAN)
    return base


@pytest.fixture
def copy(pristine, tmp_path, _small_is_official) -> Callable[[str], DatasetConfig]:
    """Return a function that copies a dataset and gives its settings."""

    def make(name: str) -> DatasetConfig:
        root = tmp_path / name
        shutil.copytree(pristine / name, root)
        return dataset_settings(name, root=str(root))

    return make


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def packed(pristine, tmp_path) -> bytes:
    """A tar archive of the synthetic bottle, below a top folder as in BTAD's archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as bundle:
        bundle.add(pristine / "mvtec/bottle", "the_dataset/bottle")
    return buffer.getvalue()
