"""What a tracker writes is what is read back; a store that fails loses nothing."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import TrackingConfig
from harness.system.terminal import is_formula
from harness.tracking import (
    JobKey,
    StoreError,
    open_tracker,
    read_runs,
    read_scores,
    store_uri,
)
from harness.tracking import tracker as tracker_module
from harness.tracking.__main__ import main
from harness.tracking.outbox import stores
from harness.tracking.store import connect, experiment_id
from harness.tracking.tracker import MlflowTracker
from tests.names import NAMES

KEY = JobKey("f" * 64, official=False, code="c" * 64)
OTHER = JobKey("0" * 64, official=False, code="c" * 64)


def tracked(uri):
    [run] = connect(uri).search_runs([experiment_id(uri, name="parts")], max_results=10)
    return run


def artifacts(uri, run):
    return {file.path for file in connect(uri).list_artifacts(run.info.run_id)}


def broken(*_, **__):
    raise ConnectionError("nobody\nanswers")


@pytest.fixture
def unreachable(monkeypatch):
    """A store that nobody reaches until the patch is undone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.tracking.store.connect", broken)
        patch.setattr(tracker_module, "_RETRY", 0.0)
        yield patch


def test_finished_job_reads_back_bit_by_bit(uri, job, record):
    tracker = MlflowTracker(uri)
    run = tracker.start(job, KEY)
    assert tracked(uri).info.status == "RUNNING"
    tracker.finish(run, record)

    [stored] = read_runs(uri)
    assert (stored.run_id, stored.status, stored.identity) == (run.run_id, "finished", "f" * 64)
    for name in ("metrics", "undefined", "settings", "n_train", "n_test_normal", "durations"):
        assert getattr(stored.record, name) == getattr(record, name)
    assert read_scores(run.run_id, uri) == record.scores
    assert artifacts(uri, tracked(uri)) == {"scores.csv", "job.yaml", "curves.svg"}
    assert tracked(uri).info.run_name == "parts/bolt · dfkde · tiny · s42"
    assert tracker.waiting() == []


def test_data_are_logged_as_a_dataset(uri, job, record):
    tracker = MlflowTracker(uri)
    tracker.finish(tracker.start(job, KEY), record)
    [given] = tracked(uri).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("parts/bolt", "b" * 36)
    assert json.loads(given.dataset.profile)["n_train"] == 9


def test_failed_job_keeps_class_message_and_traceback(uri, job):
    tracker = MlflowTracker(uri)
    run = tracker.start(job, None)
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        tracker.fail(run, error)
    failed = tracked(uri)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error.class"] == "ValueError"
    assert failed.data.tags["error.message"] == "two\nlines"
    [stored] = read_runs(uri)
    assert stored.error == "ValueError: two lines"
    path = connect(uri).download_artifacts(run.run_id, "traceback.txt")
    assert "test_tracking.py" in Path(path).read_text()


def test_newest_finished_run_of_the_identity_counts(uri, job, record):
    tracker = MlflowTracker(uri)
    assert tracker.finished_run(job, KEY) is None
    tracker.fail(tracker.start(job, KEY), ValueError("x"))
    assert tracker.finished_run(job, KEY) is None
    tracker.finish(tracker.start(job, KEY), record)
    second = tracker.start(job, KEY)
    tracker.finish(second, record)
    skipped = tracker.finished_run(job, KEY)
    assert (skipped.run_id, skipped.metrics) == (second.run_id, record.metrics)
    assert tracker.finished_run(job, OTHER) is None


def test_killed_run_is_closed_once(uri, job, record):
    tracker = MlflowTracker(uri)
    run = tracker.start(job, KEY)
    tracker.kill(run)
    assert tracked(uri).info.status == "KILLED"
    finished = tracker.start(job, KEY)
    tracker.finish(finished, record)
    tracker.kill(finished)
    assert connect(uri).get_run(finished.run_id).info.status == "FINISHED"


def test_store_that_fails_at_the_start_is_reported_at_once(tmp_path, unreachable):
    tracker = MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(StoreError, match=r"mlflow\.db: ConnectionError: nobody answers$"):
        tracker.recover()


def test_results_wait_while_the_store_is_away(uri, job, record, unreachable, capsys):
    tracker = MlflowTracker(uri)
    run = tracker.start(job, KEY)
    assert run.run_id is None
    tracker.finish(run, record)
    tracker.fail(tracker.start(job, OTHER), ValueError("x"))
    assert "2 results are waiting in" in tracker.waiting()[-1]
    skipped = tracker.finished_run(job, KEY)
    assert (skipped.run_id, skipped.metrics) == (None, record.metrics)
    assert tracker.finished_run(job, OTHER) is None
    assert main(["push", "--uri", uri]) == 1
    assert "2 results are waiting in" in capsys.readouterr().err

    unreachable.undo()
    assert main(["push", "--uri", uri]) == 0
    assert capsys.readouterr().err == "nothing is waiting\n"
    finished, failed = sorted(read_runs(uri), key=lambda run: run.status, reverse=True)
    assert (finished.status, finished.identity) == ("finished", "f" * 64)
    assert finished.record.metrics == record.metrics
    assert read_scores(finished.run_id, uri) == record.scores
    assert failed.error == "ValueError: x"


def test_results_of_a_server_are_not_sent_to_another_store(
    tmp_path, job, record, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    # Nobody listens on port 1, and there is nothing to wait for.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracker_module, "_RETRY", 0.0)
    server = MlflowTracker("http://127.0.0.1:1")
    server.finish(server.start(job, KEY), record)
    own = open_tracker(TrackingConfig(), "cache")
    assert own.waiting() == []
    assert own.finished_run(job, KEY) is None
    assert stores()[-1] == "http://127.0.0.1:1"
    assert main(["push"]) == 1
    assert "1 results are waiting in" in capsys.readouterr().err
    assert main(["push", "--uri", store_uri()]) == 0
    assert not read_runs()


def test_store_that_fails_in_the_middle_of_a_job(uri, job, record):
    tracker = MlflowTracker(uri)
    run = tracker.start(job, KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.tracking.outbox._log_values", broken)
        tracker.finish(run, record)
    assert tracked(uri).info.status == "RUNNING"
    assert "1 results are waiting" in tracker.waiting()[-1]
    tracker.recover()
    assert tracked(uri).info.status == "FINISHED"
    assert tracked(uri).data.metrics["image_auroc"] == 0.1 + 0.2
    assert tracker.waiting() == []


@pytest.mark.parametrize("broken_step", ["_log_values", "remove"])
def test_push_broken_off_makes_no_second_run(uri, job, record, unreachable, broken_step):
    tracker = MlflowTracker(uri)
    tracker.finish(tracker.start(job, KEY), record)
    unreachable.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"harness.tracking.outbox.{broken_step}", broken)
        tracker.recover()
        assert "ConnectionError: nobody answers" in tracker.waiting()[-1]
    tracker.recover()
    assert tracker.waiting() == []
    assert tracked(uri).info.status == "FINISHED"


def test_store_that_fails_is_not_asked_again_at_once(uri, job, record, unreachable):
    asked = []
    unreachable.setattr("harness.tracking.store.connect", lambda uri: asked.append(uri) or broken())
    tracker = MlflowTracker(uri)
    tracker.finish(tracker.start(job, KEY), record)
    assert len(asked) == 1
    tracker._failed_at -= tracker_module._PAUSE
    tracker.kill(tracker.start(job, OTHER))
    assert len(asked) == 2
    unreachable.undo()
    tracker.recover()


def test_result_that_no_disk_holds_is_no_result(tmp_path, job, record, uri):
    """The job fails in one line; its open run is closed, and nothing stands for the job."""
    tracker = MlflowTracker(uri)
    run = tracker.start(job, KEY)
    (tmp_path / "full").touch()  # no folder: nothing can be written into it
    tracker.outbox.folder = tmp_path / "full" / "outbox"
    with pytest.raises(OSError, match=r"cannot hold the result .* does the job again$") as caught:
        tracker.finish(run, record)
    tracker.fail(run, caught.value)
    assert tracked(uri).info.status == "FAILED"
    assert tracked(uri).data.tags["error.class"] == "OSError"
    assert tracker.finished_run(job, KEY) is None
    other = tracker.start(replace(job, seed=7), OTHER)
    tracker.kill(other)
    assert connect(uri).get_run(other.run_id).info.status == "KILLED"


def test_sqlite_store_writes_ahead(uri):
    assert Path(uri.removeprefix("sqlite:///") + "-wal").exists()


def test_tracking_none_keeps_nothing(job, record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker(TrackingConfig(kind="none"), "cache")
    tracker.recover()
    run = tracker.start(job, KEY)
    tracker.finish(run, record)
    assert run.run_id is tracker.finished_run(job, KEY) is None
    assert not list(tmp_path.iterdir())


def test_unknown_kind_of_tracking():
    with pytest.raises(StoreError, match=r"tracking.kind must be one of mlflow, none; got 'csv'"):
        open_tracker(TrackingConfig(kind="csv"), "cache")


def test_scores_are_written_in_full(uri, job, record):
    tracker = MlflowTracker(uri)
    run = tracker.start(job, KEY)
    tracker.finish(run, record)
    path = connect(uri).download_artifacts(run.run_id, "scores.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [score.score for score in record.scores]


NASTY = "a\x1b]0;x\x07\0\udcff\u202e"


@pytest.mark.parametrize("message", [NASTY, "x" * 20_000, "é\x1b" * 100_000])
def test_a_job_that_failed_with_any_message_is_recorded(uri, job, capfd, message):
    """MLflow itself would print the beginning of a long one, as it is."""
    tracker = MlflowTracker(uri)
    run = tracker.start(job, KEY)
    try:
        raise ValueError(message)
    except ValueError as error:
        tracker.fail(run, error)
    assert tracker.waiting() == []
    [stored] = read_runs(uri)
    assert stored.status == "failed"
    assert message[:5000].encode(errors="backslashreplace").decode().replace("\0", "\\x00") in (
        stored.error
    )
    if len(message) > 6000:
        assert stored.error.endswith(f" ... ({len(message)} characters)")
    path = connect(uri).download_artifacts(run.run_id, "traceback.txt")
    kept = Path(path).read_bytes()
    assert message.encode(errors="backslashreplace") in kept
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "params", [{"a=b?": 1}, {"/": 1, "..": 2}, {"a": NASTY}, {"a": "x" * 9000}, {"a" * 300: 1}]
)
def test_a_job_that_failed_with_any_params_is_recorded(uri, job, params, capfd):
    job = replace(job, model=replace(job.model, params=params))
    tracker = MlflowTracker(uri)
    tracker.fail(tracker.start(job, KEY), TypeError("unknown"))
    assert tracker.waiting() == []
    [stored] = read_runs(uri)
    assert stored.error == "TypeError: unknown"
    assert stored.record.settings["image_size"] == "256"
    assert capfd.readouterr() == ("", "")


def test_scores_of_any_name_read_back(uri, job, record):
    """A spreadsheet that opens the file finds no formula in it."""
    named = tuple(
        score._replace(image=f"{name}/{number}.png", defect_type=name)
        for name in NAMES
        for number, score in enumerate(record.scores)
    )
    tracker = MlflowTracker(uri)
    run = tracker.start(job, KEY)
    tracker.finish(run, replace(record, scores=named))
    assert tracker.waiting() == []
    assert read_scores(run.run_id, uri) == named
    assert artifacts(uri, tracked(uri)) == {"scores.csv", "job.yaml", "curves.svg"}
    path = connect(uri).download_artifacts(run.run_id, "scores.csv")
    with open(path, newline="", encoding="utf-8", errors="surrogatepass") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(is_formula(cell) and not cell.startswith("'") for cell in cells)


def test_scores_are_quoted_for_programs_that_split_at_semicolons(uri, job, record):
    [first, *rest] = record.scores
    run = (tracker := MlflowTracker(uri)).start(job, KEY)
    tracker.finish(run, replace(record, scores=(first._replace(image="x;=1.png"), *rest)))
    path = Path(connect(uri).download_artifacts(run.run_id, "scores.csv"))
    lines = path.read_bytes().split(b"\r\n")
    assert lines[1].startswith(b'"x;=1.png",')
    assert not any(b'"' in line for line in lines[2:])


def test_an_entry_of_the_outbox_is_named_in_one_line(uri, job, record, unreachable):
    tracker = MlflowTracker(uri)
    other = replace(job, category="a\x1b[2J\nerror: x", model=replace(job.model, name="m\u202e"))
    tracker.finish(tracker.start(other, KEY), record)
    unreachable.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.tracking.outbox._log_values", broken)
        tracker.recover()
        lines = tracker.waiting()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    tracker.recover()
