"""A run of other code stands for no job, wherever it is; one of another schema is reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.provenance import CHANGED
from harness.record import SCHEMA_VERSION
from harness.report.__main__ import main as report
from harness.tracking import JobKey, outdated, read_runs, read_scores
from harness.tracking import read as read_module
from harness.tracking.store import connect, experiment_id
from harness.tracking.tracker import MlflowTracker

KEY = JobKey("f" * 64, official=False, code="c" * 64)
EDITED = KEY._replace(code="d" * 64)
CHECKOUT = Path(__file__).parent.parent / "report/checkout"
OLD = str(SCHEMA_VERSION - 1)


def found(uri):
    return connect(uri).search_runs([experiment_id(uri, name="parts")], max_results=1000)


@pytest.fixture
def tracker(uri):
    return MlflowTracker(uri)


@pytest.fixture
def away(tracker):
    """The store is not reached until the patch is undone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker, "_try", lambda action: None)
        yield patch


def test_the_newest_run_of_the_same_code_counts(tracker, uri, job, record):
    first = tracker.start(job, KEY)
    tracker.finish(first, record)
    assert tracker.finished_run(job, EDITED) is None
    second = tracker.start(job, EDITED)
    tracker.finish(second, record)
    assert tracker.finished_run(job, KEY).run_id == first.run_id
    assert tracker.finished_run(job, EDITED).run_id == second.run_id
    assert {run.data.tags["code"] for run in found(uri)} == {KEY.code, EDITED.code}
    assert [run.identity for run in read_runs(uri)] == [KEY.identity] * 2


def test_run_without_the_tag_counts_for_none(tracker, uri, job, record):
    run = tracker.start(job, KEY)
    tracker.finish(run, record)
    connect(uri).delete_tag(run.run_id, "code")
    assert tracker.finished_run(job, KEY) is None


def test_result_in_the_outbox_counts_for_its_code_alone(tracker, job, record, away):
    tracker.finish(tracker.start(job, KEY), record)
    assert tracker.finished_run(job, EDITED) is None
    reason = tracker.finished_run(job, KEY).reason
    assert reason.startswith("commit ")
    assert reason.endswith(
        ", waits in the outbox for the store; `python -m harness.tracking push` sends it"
    )


@pytest.mark.parametrize("waiting", [False, True])
def test_run_whose_code_was_edited_meanwhile_counts_for_none(
    tracker, uri, job, record, monkeypatch, waiting
):
    monkeypatch.setattr("harness.tracking.contents.code_changed", lambda job: True)
    run = tracker.start(job, KEY)
    assert found(uri)[0].data.tags["code"] == KEY.code
    with pytest.MonkeyPatch.context() as patch:
        if waiting:
            patch.setattr(tracker, "_try", lambda action: None)
        tracker.finish(run, record)
        assert tracker.finished_run(job, KEY) is None
    tracker.recover()
    [finished] = found(uri)
    assert (finished.info.status, finished.data.tags["code"]) == ("FINISHED", CHANGED)
    assert (
        tracker.finished_run(job, KEY)
        is tracker.finished_run(job, KEY._replace(code=CHANGED))
        is None
    )


@pytest.mark.parametrize("dirty", ["true", "false"])
def test_reason_names_the_run_and_its_commit(tracker, uri, job, record, dirty):
    run = tracker.start(job, KEY)
    tracker.finish(run, record)
    connect(uri).set_tag(run.run_id, "commit", "0123456789abcdef")
    connect(uri).set_tag(run.run_id, "dirty", dirty)
    edited = ", uncommitted changes" if dirty == "true" else ""
    assert tracker.finished_run(job, KEY).reason == f"run {run.run_id}, commit 0123456789{edited}"


def keep(uri, schema, status="FINISHED"):
    """Leave a run of a schema in the store."""
    run = connect(uri).create_run(experiment_id(uri, name="parts"), tags={"schema": schema})
    connect(uri).set_terminated(run.info.run_id, status)


def test_store_says_which_runs_nobody_reads(uri, tracker, job, record, tmp_path, capsys):
    tracker.finish(tracker.start(job, KEY), record)
    keep(uri, OLD, "FAILED")
    assert outdated(uri) is tracker.outdated() is None
    for schema in (OLD, OLD, "999"):
        keep(uri, schema)
    line = (
        f" holds 3 runs of schema {OLD}, 999; this version reads schema {SCHEMA_VERSION},"
        " whose identities differ: their jobs run again, and no table shows them"
    )
    assert outdated(uri) == tracker.outdated() == f"{uri}{line}"
    report(["--root", str(tmp_path), "--uri", uri])
    assert capsys.readouterr().err.splitlines()[0] == f"{uri}{line}"


def test_many_such_runs_are_not_counted(uri, monkeypatch):
    monkeypatch.setattr(read_module, "_MANY", 2)
    for _ in range(3):
        keep(uri, OLD)
    assert f"mlflow.db holds more than 2 runs of schema {OLD}; " in outdated(uri)


FOREIGN = {
    "commit": [None],
    "dirty": [None],
    "versions": [None, "{", "[" * 5000, "[1]", '{"numpy": 2}'],
    "machine": [None, "no JSON\x1b[2J"],
    "seed": [None, "one", "9" * 5000],
    "dataset": [None],
    "model_factory": [None],
    "error.message": [None],
}


@pytest.mark.parametrize(
    ("tag", "value"), [(tag, value) for tag, values in FOREIGN.items() for value in values]
)
def test_a_run_that_only_says_it_is_of_this_schema_is_left_out(
    uri, tracker, job, record, caplog, tag, value
):
    kept, changed = tracker.start(job, KEY), tracker.start(job, EDITED)
    tracker.finish(kept, record)
    tracker.finish(changed, record)
    client = connect(uri)
    if tag == "error.message":
        client.set_tag(changed.run_id, "error.class", "ValueError")
    client.set_tag(changed.run_id, tag, "" if value is None else value)
    if value is None:
        client.delete_tag(changed.run_id, tag)
    assert [run.run_id for run in read_runs(uri)] == [kept.run_id]
    [line] = caplog.messages
    assert line.startswith(f"left out: run {changed.run_id} has ")
    assert f" tag {tag}" in line
    assert line.isprintable()


def test_the_report_goes_on_without_a_foreign_run(uri, tracker, job, record, tmp_path, caplog):
    tracker.finish(tracker.start(job, KEY), record)
    keep(uri, str(SCHEMA_VERSION))
    client = connect(uri)
    client.log_param(found(uri)[0].info.run_id, "images.train", "many")
    root = shutil.copytree(CHECKOUT, tmp_path / "checkout")
    assert report(["--root", str(root), "--uri", uri]) == 0
    [line] = caplog.messages
    assert " has a parameter images.train that cannot be read (ValueError: invalid " in line


HEADER = "image,defect_type,anomalous,score\n"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "image,score\na,1\n",
        f"{HEADER}a",
        f"{HEADER}a,b,1,x",
        f"{HEADER}a,b,1,nan",
        f'{HEADER}"a',
    ],
)
def test_scores_that_cannot_be_read_are_reported_in_a_line(uri, tracker, job, record, content):
    run = tracker.start(job, KEY)
    tracker.finish(run, record)
    connect(uri).log_text(run.run_id, content, "scores.csv")
    with pytest.raises(ValueError, match=rf"^scores.csv of run {run.run_id} cannot be read: "):
        read_scores(run.run_id, uri)


@pytest.mark.parametrize("run_id", ["0" * 32, "\x1b[2J", ".."])
def test_scores_of_no_run_are_reported_in_a_line(uri, run_id):
    with pytest.raises(ValueError, match=r"^scores.csv of run .* cannot be read: "):
        read_scores(run_id, uri)
