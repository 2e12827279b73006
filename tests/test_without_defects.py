"""A model of a folder with normal images only: fitted, saved, and without any metric."""

import shutil
from dataclasses import replace

import pytest

from dfkde import TrainedDetector
from harness.config import TrackingConfig
from harness.fitting import fit, held_out
from harness.metrics import METRICS
from harness.predict.model import fetch_model
from harness.report.__main__ import main as report
from harness.sweep.task import run_job
from harness.tracking import open_tracker, read_runs
from tests.conftest import dataset_config, tiny_job


@pytest.fixture(params=[0.6, 1.0])
def own_job(request, synthetic_mvtec, tmp_path):
    (tmp_path / "parts").mkdir()
    shutil.copytree(synthetic_mvtec / "bottle/train/good", tmp_path / "parts/normal")
    own = replace(dataset_config("folder"), root=str(tmp_path / "parts"), train_share=request.param)
    job = tiny_job(synthetic_mvtec, tmp_path / "cache")
    return replace(job, dataset=own, category="all", threshold_quantile=0.9)


def test_its_run_says_why_it_has_no_metrics_and_keeps_its_model(
    own_job, make_store, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it itself
    uri = make_store(tmp_path / "store")
    tracker = open_tracker(TrackingConfig(uri=uri), None)
    outcome = run_job(own_job, tracker, save_model=True)
    why = "there is no anomalous image"
    assert (outcome.status, outcome.metrics) == ("finished", {})
    assert outcome.reason == f"metrics are undefined: {why}"
    assert outcome.model == f"model={outcome.run_id} tracking.uri={uri}"
    [stored] = read_runs(uri)
    assert stored.record.metrics == {}
    undefined = stored.record.undefined
    image_level = [n for n, one in METRICS.items() if one.level == "image"]
    assert {undefined[name] for name in image_level} == {why}
    assert set(undefined) == set(METRICS)

    detector = TrainedDetector.load(
        fetch_model(f"runs:/{outcome.run_id}/model", uri, folder=tmp_path),
        trusted=["tests.tiny:build"],
    )
    assert detector.train_scores.tolist() == held_out(fit(own_job), maps=False)[0].tolist()
    assert report(["--root", str(tmp_path), "show", "--uri", uri, "dataset=folder"]) in (0, None)
    assert "| n/a |" in capsys.readouterr().out

    again = run_job(own_job, tracker, save_model=True)
    assert (again.status, again.model) == ("skipped", outcome.model)


def test_a_job_skipped_for_a_run_without_model(own_job, make_store, tmp_path):
    tracker = open_tracker(TrackingConfig(uri=make_store(tmp_path / "store")), None)
    assert run_job(own_job, tracker).model is None
    assert run_job(own_job, tracker).model is None
    skipped = run_job(own_job, tracker, save_model=True)
    assert (skipped.status, skipped.model) == ("skipped", "")
