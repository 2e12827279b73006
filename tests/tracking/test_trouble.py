"""What goes wrong with a store, its outbox or its users costs no result, and makes none twice."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from harness.system import locks
from harness.system.locks import hold
from harness.tracking import JobKey, StoreError
from harness.tracking import tracker as tracker_module
from harness.tracking.contents import HOST, IDENTITY, LOCKS, PID
from harness.tracking.outbox import Outbox, artifacts, read_entry
from harness.tracking.store import artifacts_of, connect, experiment_id
from harness.tracking.tracker import MlflowTracker, OpenRun

KEY = JobKey("f" * 64, official=False, code="c" * 64)
OTHER = JobKey("0" * 64, official=False, code="c" * 64)


def found(uri):
    return connect(uri).search_runs([experiment_id(uri, name="parts")], max_results=10)


def statuses(uri):
    return sorted(run.info.status for run in found(uri))


def waiting(tracker):
    """The folders in the outbox, those in the making included."""
    return tracker.outbox._all()


@pytest.fixture
def tracker(uri, tmp_path):
    return MlflowTracker(uri, tmp_path / "locks")


@pytest.fixture
def down(monkeypatch):
    """A store that nobody reaches until the patch is undone."""

    def broken(*_, **__):
        raise ConnectionError("nobody answers")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.tracking.store.connect", broken)
        patch.setattr(tracker_module, "_RETRY", 0.0)
        yield patch


def test_entry_that_is_refused_holds_up_no_other(tracker, uri, job, record, down):
    bad = replace(record, metrics={"a name that MLflow refuses?": 1.0})
    tracker.finish(tracker.start(job, KEY), bad)
    tracker.finish(tracker.start(replace(job, seed=7), OTHER), record)
    down.undo()
    tracker.recover()
    [run] = [run for run in found(uri) if run.info.status == "FINISHED"]
    assert run.data.tags["seed"] == "7"
    first, second = tracker.waiting()
    assert first.startswith("1 results are waiting")
    assert second.startswith("parts/bolt · dfkde · tiny · s42: MlflowException: ")


@pytest.mark.parametrize("content", ["", '"words"', "[]", "null"])
def test_entry_that_cannot_be_read_holds_up_no_other(tracker, uri, job, record, down, content):
    tracker.finish(tracker.start(job, KEY), record)
    [good] = waiting(tracker)
    shutil.copytree(good, good.with_name("0" + good.name[1:]))
    (good.with_name("0" + good.name[1:]) / "run.json").write_text(content)
    newest = good.with_name("9" + good.name[1:])
    shutil.copytree(good, newest)
    (newest / "run.json").write_text("{}")
    assert tracker.finished_run(job, KEY).metrics == record.metrics
    down.undo()
    tracker.recover()
    assert statuses(uri) == ["FINISHED"]
    assert [line.split(": ")[0] for line in tracker.waiting()[1:]] == [
        str(path) for path in sorted(waiting(tracker))
    ]


def test_deleted_experiment_is_restored(tracker, uri, job, record, down):
    job = replace(job, dataset=replace(job.dataset, name="lost"))
    tracker.finish(tracker.start(job, KEY), record)
    down.undo()
    lost = experiment_id(uri, name="lost")
    connect(uri).delete_experiment(lost)
    experiment_id.cache_clear()
    tracker.recover()
    [run] = connect(uri).search_runs([lost])
    assert run.info.status == "FINISHED"
    assert tracker.waiting() == []


def test_deleted_run_whose_result_waits_is_restored(tracker, uri, job, record):
    run = tracker.start(job, KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker, "_try", lambda action: None)
        tracker.finish(run, record)
    connect(uri).delete_run(run.run_id)
    tracker.recover()
    assert [(r.info.run_id, r.info.status) for r in found(uri)] == [(run.run_id, "FINISHED")]


def test_run_under_another_name_or_of_other_data_hides_no_job(tracker, uri, job, record):
    tracker.finish(tracker.start(job, KEY), record)
    assert tracker.finished_run(job, KEY) is not None
    official = KEY._replace(official=True)
    renamed = replace(job, model=replace(job.model, name="mine"))
    moved = replace(job, backbone=replace(job.backbone, name="mine"))
    assert tracker.finished_run(job, official) is None
    assert tracker.finished_run(renamed, KEY) is tracker.finished_run(moved, KEY) is None


def test_run_that_ends_while_it_is_taken_for_dead_stays_finished(tracker, uri, job, record):
    with tracker.lock(KEY.identity):
        run = tracker.start(job, KEY)
        [seen] = found(uri)
        tracker.finish(run, record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker_module, "open_runs", lambda uri: [seen])
        tracker.recover()
    assert statuses(uri) == ["FINISHED"]
    assert "error.class" not in found(uri)[0].data.tags


def test_run_closed_as_dead_that_finishes_after_all_tells_no_error(tracker, uri, job, record):
    with tracker.lock(KEY.identity):
        run = tracker.start(job, KEY)
    tracker.recover()
    assert statuses(uri) == ["KILLED"]
    tracker.finish(run, record)
    assert statuses(uri) == ["FINISHED"]
    assert "error.class" not in found(uri)[0].data.tags


def test_one_refusal_is_no_reason_to_compute_again(tracker, uri, job, record, monkeypatch):
    tracker.finish(tracker.start(job, KEY), record)
    monkeypatch.setattr(tracker_module, "_RETRY", 0.01)
    refusals = [ConnectionError("once")]

    def once(uri, *, name):
        if refusals:
            raise refusals.pop()
        return experiment_id(uri, name=name)

    monkeypatch.setattr("harness.tracking.store.experiment_id", once)
    assert tracker.finished_run(job, KEY).metrics == record.metrics


def test_figure_that_fails_costs_itself_only(tracker, uri, job, record, monkeypatch):
    def unreadable(_):
        raise OSError("truncated image")

    monkeypatch.setattr("harness.charts.draw_curves", unreadable)
    run = tracker.start(job, KEY)
    tracker.finish(run, record)
    assert statuses(uri) == ["FINISHED"]
    assert {file.path for file in connect(uri).list_artifacts(run.run_id)} == {
        "scores.csv",
        "job.yaml",
    }


def test_attachment_that_fails_costs_itself_only(tracker, uri, job, record):
    def attach(folder):
        (folder / "half").touch()
        raise OSError("no space left on device")

    run = tracker.start(job, KEY)
    tracker.finish(run, record, attach=attach)
    [finished] = found(uri)
    assert finished.data.metrics["image_auroc"] == record.metrics["image_auroc"]
    assert "half" not in {file.path for file in connect(uri).list_artifacts(run.run_id)}


@pytest.mark.parametrize("writing", [False, True])
def test_half_written_entries_are_removed_unless_somebody_writes(
    tracker, job, record, down, writing
):
    tracker.finish(tracker.start(job, KEY), record)
    [whole] = waiting(tracker)
    part = whole.rename(whole.with_name(f".{whole.name}"))
    down.undo()
    with hold(tracker.outbox.folder / ".lock") if writing else contextlib.nullcontext():
        tracker.recover()
    assert part.exists() == writing


def test_half_written_entries_stay_where_no_lock_tells_who_writes(
    tracker, job, record, down, monkeypatch
):
    tracker.finish(tracker.start(job, KEY), record)
    [whole] = waiting(tracker)
    part = whole.rename(whole.with_name(f".{whole.name}"))
    down.undo()

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr(locks, "_warned", {"locks"})
    tracker.recover()
    assert part.exists()


@pytest.mark.parametrize("change", ["differs", "missing", "added"])
def test_an_artifact_that_was_damaged_while_it_waited_is_never_sent(
    tracker, uri, job, record, down, change
):
    tracker.finish(tracker.start(job, KEY), record)
    [folder] = waiting(tracker)
    scores = artifacts(folder) / "scores.csv"
    whole = scores.read_bytes()
    if change == "differs":
        scores.write_bytes(whole.replace(b"0.3", b"0.4"))
    elif change == "missing":
        scores.unlink()
    else:
        (artifacts(folder) / "more.txt").touch()
    down.undo()
    tracker.recover()
    assert "is not as it was written" in tracker.waiting()[-1]
    assert statuses(uri) == []
    scores.write_bytes(whole)
    (artifacts(folder) / "more.txt").unlink(missing_ok=True)
    tracker.recover()
    assert statuses(uri) == ["FINISHED"]


def test_a_damaged_entry_is_reported_and_never_sent(tracker, uri, job, record, down):
    tracker.finish(tracker.start(job, KEY), record)
    [folder] = waiting(tracker)
    file = folder / "run.json"
    whole = file.read_text()
    value = repr(record.metrics["image_auroc"])
    assert value in whole
    file.write_text(whole.replace(value, f"1{value[1:]}"))
    assert list(tracker.outbox.find(KEY.identity)) == []
    down.undo()
    tracker.recover()
    assert "its checksum does not fit" in tracker.waiting()[-1]
    assert statuses(uri) == []
    file.write_text(whole)
    tracker.recover()
    assert statuses(uri) == ["FINISHED"]


def test_the_outbox_is_made_for_this_user_alone(tmp_path, job, record, uri):
    outbox = Outbox(f"sqlite:///{tmp_path}/mlflow.db")
    outbox.add(OpenRun(job).entry("FINISHED"), {})
    assert outbox.folder == tmp_path / f"outbox-{os.getuid()}"
    assert outbox.folder.stat().st_mode & 0o777 == 0o700
    assert len(list(outbox)) == 1


@pytest.mark.parametrize("kind", ["a link", "open to others", "a file"])
def test_an_outbox_that_is_not_this_users_alone_is_refused(tmp_path, make_store, job, kind):
    """Whoever can make it first could take results, or have files behind a link removed."""
    home = tmp_path / "home"
    part = home / f".1-FINISHED--{'0' * 32}"
    part.mkdir(parents=True)
    tracker = MlflowTracker(make_store(tmp_path / "runs"))
    folder = tracker.outbox.folder
    if kind == "a link":
        folder.symlink_to(home)
    elif kind == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o755)
    if kind != "a file":  # nothing of a file is read; nothing can be written to it either
        with pytest.raises(
            StoreError, match=r"outbox-\d+ must be a folder of user \d+ that nobody"
        ):
            tracker.recover()
        assert "that nobody else may enter" in tracker.waiting()[-1]
    with pytest.raises(PermissionError, match="that nobody else may enter"):
        tracker.outbox.add(OpenRun(job).entry("KILLED"), {})
    assert part.exists()


def test_an_outbox_of_another_user_is_refused(tmp_path, monkeypatch):
    outbox = Outbox(f"sqlite:///{tmp_path}/mlflow.db")
    outbox.open()
    monkeypatch.setattr("os.getuid", lambda: outbox.folder.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="that nobody else may enter"):
        outbox.open()


def test_who_connects_to_a_server_takes_the_password(monkeypatch):
    seen = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:p4ss@host")
    monkeypatch.setattr("mlflow.MlflowClient", lambda tracking_uri: seen.append(tracking_uri))
    monkeypatch.setattr(
        "mlflow.store.artifact.artifact_repository_registry.get_artifact_repository",
        lambda location, tracking_uri: seen.append(tracking_uri) or Mock(),
    )
    connect.__wrapped__("http://host")
    artifacts_of("http://host", Mock(artifact_uri="mlflow-artifacts:/1", run_id="1"))
    assert seen == ["http://me:p4ss@host"] * 2


def test_an_outbox_whose_filesystem_forces_modes_is_warned_of(tmp_path, job, monkeypatch):
    """As Windows' disks under WSL: nobody could close a folder there."""
    make = Path.mkdir

    def forced(self, *arguments, **keywords):
        make(self, *arguments, **keywords)
        self.chmod(0o777)

    monkeypatch.setattr(Path, "mkdir", forced)
    outbox = Outbox(f"sqlite:///{tmp_path}/mlflow.db")
    entry = OpenRun(job).entry("KILLED")
    with pytest.warns(UserWarning, match="cannot be closed to others"):
        outbox.add(entry, {})
    assert len(list(outbox)) == 1


def test_what_is_none_of_ours_in_the_outbox_stays(tracker, job, record, down):
    tracker.finish(tracker.start(job, KEY), record)
    hidden = tracker.outbox.folder / ".hidden"
    hidden.mkdir()
    (tracker.outbox.folder / f".2-FINISHED--{'0' * 32}").symlink_to(hidden)
    down.undo()
    tracker.recover()
    assert [path.name for path in waiting(tracker)] == [".hidden"]
    assert tracker.waiting() == []


def test_interrupted_run_waits_to_be_closed_if_the_store_is_away(tracker, uri, job, down):
    down.undo()
    run = tracker.start(job, KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker, "_try", lambda action: None)
        tracker.kill(run)
    [folder] = waiting(tracker)
    assert read_entry(folder).status == "KILLED"
    tracker.recover()
    assert statuses(uri) == ["KILLED"]


def test_store_that_goes_away_while_results_are_sent_is_reported(tracker, job, record, down):
    tracker.finish(tracker.start(job, KEY), record)
    with pytest.raises(StoreError, match="nobody answers"):
        tracker.recover()


@pytest.mark.parametrize("again", [False, True])
def test_result_for_a_store_that_was_made_again_is_sent_once(tracker, uri, job, record, again):
    run = tracker.start(job, KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker, "_try", lambda action: None)
        tracker.finish(run, record)
    connect(uri)._tracking_client.store._hard_delete_run(run.run_id)
    if again:  # the process died after it had created the run
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("harness.tracking.outbox._log_values", lambda *_, **__: 1 / 0)
            tracker.recover()
        assert statuses(uri) == ["RUNNING"]
    tracker.recover()
    assert statuses(uri) == ["FINISHED"]
    assert tracker.waiting() == []


@pytest.mark.parametrize("name", [PID, HOST, IDENTITY, LOCKS, "commit", "dirty"])
def test_a_run_that_lost_a_tag_stops_nothing(tracker, uri, job, record, name):
    tracker.finish(tracker.start(job, KEY), record)
    [run] = found(uri)
    connect(uri).delete_tag(run.info.run_id, name)
    left = tracker.start(job, OTHER)
    connect(uri).delete_tag(left.run_id, name)
    tracker.recover()
    assert (tracker.finished_run(job, KEY) is None) == (name == IDENTITY)
    with tracker.lock(OTHER.identity):
        tracker.finish(tracker.start(job, OTHER), record)
    assert statuses(uri).count("FINISHED") == 2
