"""What is read is what the client of MLflow tells, wherever the store lies now."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.report.results import difference
from harness.tracking import JobKey, read_job, read_record, read_runs, read_scores
from harness.tracking.read import stored
from harness.tracking.store import artifacts_of, connect, ended_runs, experiment_id
from harness.tracking.tracker import MlflowTracker

KEY = JobKey("f" * 64, official=True, code="c" * 64)
PIXEL = {"aupro": 0.5, "pixel_auroc": 0.1 + 0.2}


@pytest.fixture
def finished(uri, job, record):
    """A finished run with pixel metrics."""
    tracker = MlflowTracker(uri)
    run = tracker.start(job, KEY)
    tracker.finish(run, replace(record, metrics=record.metrics | PIXEL, undefined={}))
    return run.run_id


def test_all_runs_are_read_as_the_client_reads_them(uri, job, record, finished):
    tracker, client = MlflowTracker(uri), connect(uri)
    odd = record.metrics | {"aupro": float("nan"), "image_auroc": -0.0}
    for key in (KEY, None):
        tracker.fail(tracker.start(job, key), ValueError("x'y"))
    tracker.finish(tracker.start(job, KEY), replace(record, metrics=odd))
    for name, delete in (("parts", True), ("gone", False)):
        run = client.create_run(experiment_id(uri, name=name), tags={"schema": "3"})
        client.set_terminated(run.info.run_id)
        if delete:
            client.delete_run(run.info.run_id)
    client.delete_experiment(experiment_id(uri, name="gone"))
    killed = tracker.start(job, KEY)
    tracker.kill(killed)
    tracker.start(job, KEY)
    by_client = map(stored, ended_runs(client, None))
    found = read_runs(uri)
    assert sorted(map(repr, found)) == sorted(map(repr, by_client))
    assert sorted(run.status for run in found) == ["failed", "failed", "finished", "finished"]
    assert [run.started for run in found] == sorted((r.started for r in found), reverse=True)


@pytest.fixture
def moved(uri, finished, store_folder, tmp_path):
    """The address of the store in another folder; what is left in the old one is no store."""
    place = tmp_path / "another place"
    connect(uri)._tracking_client.store.engine.dispose()  # so that the file holds everything
    shutil.copytree(store_folder, place)
    old = store_folder / "artifacts" / finished
    old.rename(old.with_name("kept"))
    yield f"sqlite:///{place}/mlflow.db"
    shutil.rmtree(old, ignore_errors=True)
    old.with_name("kept").rename(old)


def test_a_moved_store_finds_its_artifacts_and_writes_beside_it(
    moved, finished, record, job, store_folder, tmp_path
):
    assert read_scores(finished, moved) == record.scores
    assert read_job(finished, moved, trusted=["tiny:build"]).category == job.category
    [run] = read_runs(moved)
    assert read_record(run, moved).scores == record.scores
    before = set((store_folder / "artifacts").rglob("*"))
    tracker = MlflowTracker(moved)
    new = tracker.start(job, KEY)
    tracker.finish(new, record)
    assert tracker.waiting() == []
    assert set((store_folder / "artifacts").rglob("*")) == before
    assert (tmp_path / "another place/artifacts" / new.run_id / "artifacts/scores.csv").is_file()
    assert read_scores(new.run_id, moved) == record.scores


def test_artifacts_go_to_a_server_with_its_password(uri, finished, monkeypatch):
    address = "http://me:pw@host:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    name = "mlflow.store.artifact.artifact_repository_registry.get_artifact_repository"
    monkeypatch.setattr(name, lambda _, tracking_uri: tracking_uri)
    info = connect(uri).get_run(finished).info
    assert artifacts_of("http://host:1", info) == address


@pytest.mark.parametrize(
    "address", ["file:///mnt/shared/1", "mlflow-artifacts:/1/{}/artifacts", "s3://b/artifacts/{}"]
)
def test_an_address_of_another_kind_is_left_as_it_is(uri, finished, address, monkeypatch):
    info = connect(uri).get_run(finished).info
    info._artifact_uri = address.format(finished)
    name = "mlflow.store.artifact.artifact_repository_registry.get_artifact_repository"
    monkeypatch.setattr(name, lambda address, tracking_uri: address)
    assert artifacts_of(uri, info) == info.artifact_uri
    assert artifacts_of("http://host:1", info) == info.artifact_uri


@pytest.mark.parametrize("name", sorted(PIXEL))
def test_an_edited_metric_differs_from_the_record(uri, finished, name):
    [run] = read_runs(uri)
    assert read_record(run, uri).metrics == run.record.metrics
    connect(uri).log_metric(finished, name, 0.75)
    [run] = read_runs(uri)
    kept = read_record(run, uri)
    assert (run.record.metrics[name], kept.metrics[name]) == (0.75, PIXEL[name])


def scores_file(uri, run_id):
    return Path(
        artifacts_of(uri, connect(uri).get_run(run_id).info).download_artifacts("scores.csv")
    )


@pytest.mark.parametrize("left", [0, 1, 2.5, 3], ids=str)
def test_cut_scores_are_no_scores(uri, finished, left):
    """Between two lines, numbers of images tell; within a line, it is no line."""
    path = scores_file(uri, finished)
    lines = path.read_text().splitlines(keepends=True)
    text = "".join(lines[: int(left)])
    path.write_text(text + (lines[int(left)][:20] if left % 1 else ""))
    [run] = read_runs(uri)
    try:
        message = difference(run.record, read_record(run, uri).scores)
    except ValueError as error:
        message = str(error)
    assert message.startswith(("its n_test_", f"scores.csv of run {finished} cannot be read: "))


def test_scores_that_are_gone_are_reported_in_one_line(uri, finished):
    scores_file(uri, finished).unlink()
    [run] = read_runs(uri)
    with pytest.raises(
        ValueError, match=rf"^scores\.csv of run {finished} cannot be read: [^\n]+$"
    ):
        read_record(run, uri)
