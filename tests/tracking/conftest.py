from __future__ import annotations

import shutil

import pytest

from harness.config import BackboneConfig, DatasetConfig, FeaturesConfig, Job, ModelConfig
from harness.record import ImageScore, Record
from harness.tracking.store import connect


@pytest.fixture
def job():
    return Job(
        dataset=DatasetConfig("parts", "Parts", "mvtec", ["bolt"]),
        category="bolt",
        backbone=BackboneConfig("tiny", "tiny:build", layers=["1"], mean=[0.5], std=[0.5]),
        model=ModelConfig("dfkde", "dfkde.density:DFKDE"),
        features=FeaturesConfig(),
    )


@pytest.fixture
def record():
    scores = [("good", 1 / 3), ("good", 0.1 + 0.2), ("bent", 1e-300), ("bent", 2.0**0.5)]
    return Record(
        dataset="parts",
        category="bolt",
        model="dfkde",
        backbone="tiny",
        model_factory="dfkde.density:DFKDE",
        backbone_factory="tiny:build",
        seed=42,
        settings={"image_size": "32", "model.n_components": "16"},
        weights_digest="a" * 64,
        data_fingerprint="b" * 64,
        official=False,
        n_train=9,
        n_test_normal=2,
        n_test_anomalous=2,
        metrics={"image_auroc": 0.1 + 0.2, "image_f1_max": 2 / 3},
        undefined={"pixel_auroc": "no masks"},
        scores=tuple(
            ImageScore(f"bolt/test/{kind}/{number}.png", kind, kind != "good", score)
            for number, (kind, score) in enumerate(scores)
        ),
        durations={"model": 0.25},
    )


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory, make_store):
    """The folder of one store for the session."""
    folder = tmp_path_factory.mktemp("tracking")
    make_store(folder)
    return folder


@pytest.fixture
def uri(store_folder):
    """A store without runs, and nothing that waits for it."""
    for outbox in store_folder.glob("outbox-*"):
        shutil.rmtree(outbox)
    uri = f"sqlite:///{store_folder / 'mlflow.db'}"
    client = connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments, max_results=1000):
        client.delete_run(run.info.run_id)
    return uri
