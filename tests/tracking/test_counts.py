"""The numbers of images left out and of duplicates are recorded in the run."""

from __future__ import annotations

from dataclasses import replace

from harness.tracking import JobKey, read_runs
from harness.tracking.contents import of_record
from harness.tracking.tracker import MlflowTracker


def test_numbers_of_images_left_out_and_of_duplicates_are_read_back(job, record, uri):
    record = replace(record, n_left_out=2, n_duplicates=5)
    assert of_record(job, record)["params"]["images.left_out"] == "2"
    tracker = MlflowTracker(uri)
    tracker.finish(tracker.start(job, JobKey("e" * 64, official=False, code="c")), record)
    [found] = [run.record for run in read_runs(uri) if run.identity == "e" * 64]
    assert (found.n_left_out, found.n_duplicates) == (2, 5)
    assert found.settings == record.settings


def test_runs_without_them_are_stored_as_before(job, record):
    params = of_record(job, record)["params"]
    assert {name for name in params if name.startswith("images.")} == {
        *("images.train", "images.test_normal", "images.test_anomalous")
    }
