"""What several test packages share: a tiny job on synthetic data, and the real images' place."""

import logging
import os
import sqlite3
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra._internal.core_plugins import file_config_source
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf

from harness.config import BackboneConfig, DatasetConfig, FeaturesConfig, Job, ModelConfig
from harness.data import load_split
from harness.data.synthetic import write_synthetic
from harness.tracking.store import connect

ROOT = Path(__file__).resolve().parent.parent

# A busy machine fails no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable():
    """Escape lone surrogates, which a worker cannot send: captured file names hold them."""
    return _utf8((yield))


def _utf8(value):
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _utf8(one) for key, one in value.items()}
    return type(value)(map(_utf8, value)) if isinstance(value, list | tuple) else value


@pytest.fixture(autouse=True)
def _level_of_logging():
    """Put the level back: `hydra.verbose=true` would slow down every later composition."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def _parse_each_file_once():
    """Parse files of settings of equal text once: a command reads fifty of them."""
    parsed = {}

    def load(file):
        text = file.read()
        if text not in parsed:
            parsed[text] = OmegaConf.load(StringIO(text))
        return deepcopy(parsed[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_config_source, "OmegaConf", SimpleNamespace(load=load))
        yield


def dataset_config(name):
    """Return `conf/dataset/<name>.yaml`."""
    return _config(DatasetConfig, "dataset", name)


def _config(kind, group, name):
    return kind(**yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text()))


def tiny_job(root, cache):
    """Return a job on the synthetic bottle below `root` with the tiny backbone."""
    dataset = dataset_config("mvtec")
    return Job(
        dataset=replace(dataset, root=str(root), official=False),
        category="bottle",
        backbone=BackboneConfig(
            name="tiny",
            factory="tests.tiny:build",
            layers=["features"],
            mean=[0.5, 0.5, 0.5],
            std=[0.25, 0.25, 0.25],
        ),
        model=ModelConfig(name="dfkde", factory="dfkde.density:DFKDE", params={"n_components": 4}),
        features=FeaturesConfig(engine="torch", cache=str(cache)),
        image_size=64,
    )


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An SQLite store without runs, the same one for all processes; do not change it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / "empty_store" / "mlflow.db"
    connect(f"sqlite:///{path}")  # of several processes one makes it
    return path


@pytest.fixture(scope="session")
def make_store(empty_store):
    """Make an SQLite store in a folder and return its address: a copy, for MLflow takes seconds."""

    from mlflow.store.db import utils  # imported by what made the empty store

    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (
            closing(sqlite3.connect(empty_store)) as source,
            closing(sqlite3.connect(folder / "mlflow.db")) as copy,
        ):
            source.backup(copy)
            moved = "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)"
            copy.execute(moved, (str(empty_store.parent), str(folder)))
            copy.commit()
        return f"sqlite:///{folder / 'mlflow.db'}"

    with pytest.MonkeyPatch.context() as patch:
        # MLflow would read all its migrations again at each connection.
        patch.setattr(
            utils, "_get_latest_schema_revision", cache(utils._get_latest_schema_revision)
        )
        yield make


@pytest.fixture(scope="session")
def synthetic_mvtec(tmp_path_factory):
    """Root of a small synthetic MVTec AD with two categories."""
    root = tmp_path_factory.mktemp("synthetic") / "mvtec"
    return write_synthetic(root, "mvtec", categories=["bottle", "grid"])


@pytest.fixture
def job(synthetic_mvtec, tmp_path):
    """A job that takes a fraction of a second: synthetic bottle, tiny backbone, own cache."""
    return tiny_job(synthetic_mvtec, tmp_path / "cache")


@pytest.fixture
def elpv_job(tmp_path):
    """The demo's job on `mono`, as `conf/` has it, with its own cache."""
    return Job(
        dataset=dataset_config("elpv"),
        category="mono",
        backbone=_config(BackboneConfig, "backbone", "efficientnet_lite0"),
        model=ModelConfig(name="dfkde", factory="dfkde.density:DFKDE"),
        features=FeaturesConfig(cache=str(tmp_path / "cache")),
    )


@pytest.fixture(scope="session")
def real_images():
    """Folder of the real test images; the test is skipped where there is none."""
    return _folder("DFKDE_TEST_DATA", "real images")


@pytest.fixture(scope="session")
def real_weights():
    """Folder of the stand-in ResNet50; the test is skipped where there is none."""
    return _folder("DFKDE_TEST_WEIGHTS", "a real ResNet50")


def _folder(variable, what):
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name a folder with {what}")
    return Path(os.environ[variable])


@pytest.fixture
def split(job):
    """Return the images of `job`."""
    return load_split(job.dataset, job.category, seed=job.seed)
