"""A prefix keeps the runs of people on one store apart; whoever reads sees them all."""

from __future__ import annotations

import pytest

from harness.config import TrackingConfig
from harness.tracking import JobKey, open_tracker, read_job, read_runs
from harness.tracking.__main__ import main
from harness.tracking.store import connect
from harness.tracking.tracker import MlflowTracker
from tests.sweep.conftest import runs

KEY = JobKey("f" * 64, official=False, code="c" * 64)


@pytest.fixture
def trackers(uri):
    """Three people on one store: Alice, Bob, and one without a prefix."""
    return [MlflowTracker(uri, None, prefix) for prefix in ("alice/", "bob/", "")]


def experiments(uri):
    client = connect(uri)
    return sorted(client.get_experiment(run.info.experiment_id).name for run in runs(client))


def test_a_run_counts_under_its_own_prefix_alone(uri, trackers, job, record):
    alice, bob, plain = trackers
    run = alice.start(job, KEY)
    alice.finish(run, record)
    assert experiments(uri) == ["alice/parts"]
    assert alice.finished_run(job, KEY).run_id == run.run_id
    assert bob.finished_run(job, KEY) is plain.finished_run(job, KEY) is None
    for tracker in (bob, plain):
        tracker.finish(tracker.start(job, KEY), record)
    assert experiments(uri) == ["alice/parts", "bob/parts", "parts"]


def test_a_result_in_the_outbox_does_too(uri, trackers, job, record):
    alice, bob, plain = trackers
    with pytest.MonkeyPatch.context() as patch:
        for tracker in trackers:
            patch.setattr(tracker, "_try", lambda action: None)
        alice.finish(alice.start(job, KEY), record)
    assert alice.finished_run(job, KEY).metrics == record.metrics
    assert bob.finished_run(job, KEY) is plain.finished_run(job, KEY) is None
    bob.recover()
    assert experiments(uri) == ["alice/parts"]


def test_failures_and_interrupted_jobs_are_kept_there(uri, trackers, job):
    alice, *_ = trackers
    alice.fail(alice.start(job, None), ValueError("x"))
    alice.kill(alice.start(job, KEY))
    assert experiments(uri) == ["alice/parts"] * 2


def test_readers_find_the_runs_of_every_prefix(uri, trackers, job, record, monkeypatch, capsys):
    for tracker in trackers:
        tracker.finish(tracker.start(job, KEY), record)
    found = read_runs(uri)
    assert len(found) == 3
    for run in found:
        assert read_job(run.run_id, uri, trusted=["tiny:build"]).category == "bolt"
    monkeypatch.setattr("os.execv", lambda *_: 0)
    assert main(["ui", "--uri", uri]) == 0
    listed = {line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()}
    assert {"alice/parts", "bob/parts", "parts"} <= listed


def test_each_prefix_has_its_tracker(uri):
    assert open_tracker(TrackingConfig(uri=uri, prefix="alice/"), None) is not open_tracker(
        TrackingConfig(uri=uri), None
    )
