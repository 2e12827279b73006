"""What goes wrong with a store, its spool or its users costs no result, and makes none twice."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from dataclasses import asdict, replace

import pytest

from harness.tracking import Known, StoreError
from harness.tracking import write as write_module
from harness.tracking.entry import locked, read_entry
from harness.tracking.owner import MACHINE, SLURM_JOB, process, started, this_process
from harness.tracking.spool import Spool
from harness.tracking.store import connect, experiment_id
from harness.tracking.tracker import OpenRun
from harness.tracking.write import MlflowTracker, _entry

KNOWN = Known("f" * 64, official=False, code="c" * 64)
OTHER = Known("0" * 64, official=False, code="c" * 64)


def found(uri):
    return connect(uri).search_runs([experiment_id(uri, name="parts")], max_results=10)


def statuses(uri):
    return sorted(run.info.status for run in found(uri))


def spooled(tracker):
    """The spool's folders, those in the making included."""
    folder = tracker._spool.folders[0]
    return list(folder.iterdir()) if folder.exists() else []


@pytest.fixture
def tracker(uri):
    tracker = MlflowTracker(uri)
    yield tracker
    for folder in spooled(tracker):
        shutil.rmtree(folder)


@pytest.fixture
def down(monkeypatch):
    """A store that nobody reaches until the patch is undone."""

    def broken(*_, **__):
        raise ConnectionError("nobody answers")

    with pytest.MonkeyPatch.context() as patch:
        for module in ("write", "push", "runs"):
            patch.setattr(f"harness.tracking.{module}.connect", broken)
        patch.setattr(write_module, "_AGAIN", 0.0)
        yield patch


def test_entry_that_is_refused_holds_up_no_other(tracker, uri, job, record, down):
    bad = replace(record, metrics={"a name that MLflow refuses?": 1.0})
    tracker.finish(tracker.start(job, KNOWN), bad)
    tracker.finish(tracker.start(replace(job, seed=7), OTHER), record)
    down.undo()
    tracker.recover()
    [run] = [run for run in found(uri) if run.info.status == "FINISHED"]
    assert run.data.tags["seed"] == "7"
    first, second = tracker.waiting().splitlines()
    assert first.startswith("1 results wait")
    assert second.startswith("parts/bolt · dfkde · tiny · s42: MlflowException: ")


def test_entry_that_cannot_be_read_holds_up_no_other(tracker, uri, job, record, down):
    tracker.finish(tracker.start(job, KNOWN), record)
    [good] = spooled(tracker)
    shutil.copytree(good, good.with_name("0" + good.name[1:]))
    (good.with_name("0" + good.name[1:]) / "run.json").write_text("")
    newest = good.with_name("9" + good.name[1:])
    shutil.copytree(good, newest)
    (newest / "run.json").write_text("{}")
    assert tracker.earlier(job, KNOWN).metrics == record.metrics
    down.undo()
    tracker.recover()
    assert statuses(uri) == ["FINISHED"]
    assert [line.split(": ")[0] for line in tracker.waiting().splitlines()[1:]] == [
        str(path) for path in sorted(spooled(tracker))
    ]


def test_deleted_experiment_is_restored(tracker, uri, job, record, down):
    job = replace(job, dataset=replace(job.dataset, name="lost"))
    tracker.finish(tracker.start(job, KNOWN), record)
    down.undo()
    lost = experiment_id(uri, name="lost")
    connect(uri).delete_experiment(lost)
    experiment_id.cache_clear()
    tracker.recover()
    [run] = connect(uri).search_runs([lost])
    assert run.info.status == "FINISHED"
    assert tracker.waiting() is None


def test_deleted_run_whose_result_waits_is_restored(tracker, uri, job, record):
    run = tracker.start(job, KNOWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker, "_try", lambda action: None)
        tracker.finish(run, record)
    connect(uri).delete_run(run.run_id)
    tracker.recover()
    assert [(r.info.run_id, r.info.status) for r in found(uri)] == [(run.run_id, "FINISHED")]


def test_run_under_another_name_or_of_other_data_hides_no_job(tracker, uri, job, record):
    tracker.finish(tracker.start(job, KNOWN), record)
    assert tracker.earlier(job, KNOWN) is not None
    official = KNOWN._replace(official=True)
    renamed = replace(job, model=replace(job.model, name="mine"))
    moved = replace(job, backbone=replace(job.backbone, name="mine"))
    assert tracker.earlier(job, official) is None
    assert tracker.earlier(renamed, KNOWN) is tracker.earlier(moved, KNOWN) is None


def test_run_that_ends_while_it_is_taken_for_dead_stays_finished(tracker, uri, job, record):
    run = tracker.start(job, KNOWN)
    [seen] = found(uri)
    tracker.finish(run, record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_module, "open_runs", lambda uri: [seen])
        patch.setattr(write_module, "alive", lambda tags: False)
        tracker.recover()
    assert statuses(uri) == ["FINISHED"]
    assert "error.class" not in found(uri)[0].data.tags


def test_run_closed_as_dead_that_finishes_after_all_tells_no_error(tracker, uri, job, record):
    run = tracker.start(job, KNOWN)
    tracker.recover(at_end=True)
    assert statuses(uri) == ["KILLED"]
    tracker.finish(run, record)
    assert statuses(uri) == ["FINISHED"]
    assert "error.class" not in found(uri)[0].data.tags


def test_dead_worker_of_another_machine_is_buried_by_who_knows(tracker, uri, job):
    run = tracker.start(job, KNOWN)
    client = connect(uri)
    for name, value in ((MACHINE, "another"), (SLURM_JOB, "12")):
        client.set_tag(run.run_id, name, value)
    tracker.recover()
    tracker.bury({SLURM_JOB: "13"})
    assert statuses(uri) == ["RUNNING"]
    tracker.bury({SLURM_JOB: "12"})
    assert statuses(uri) == ["KILLED"]


def test_of_two_processes_that_begin_at_once_the_older_goes_on(tracker, uri, job, record):
    first = tracker.start(job, KNOWN)
    time.sleep(0.002)
    second = tracker.start(job, KNOWN)
    given_way = tracker.rival(second)
    assert (given_way.run_id, given_way.busy) == (first.run_id, True)
    assert tracker.rival(first) is None
    assert [run.info.run_id for run in found(uri)] == [first.run_id]
    late = tracker.start(job, KNOWN)
    tracker.finish(first, record)
    assert tracker.rival(late).reason.startswith(f"run {first.run_id}, commit ")
    assert statuses(uri) == ["FINISHED"]


def test_older_run_gives_way_to_one_that_did_not_see_it(tracker, uri, job, monkeypatch):
    monkeypatch.setattr(write_module, "_SETTLE", 0.2)
    older = tracker.start(job, KNOWN)
    time.sleep(0.002)
    younger = tracker.start(job, KNOWN)
    assert tracker.rival(older).run_id == younger.run_id


def test_older_run_waits_for_the_younger_to_give_way(tracker, uri, job):
    older = tracker.start(job, KNOWN)
    time.sleep(0.002)
    younger = tracker.start(job, KNOWN)
    thread = threading.Timer(0.3, lambda: tracker.rival(younger))
    thread.start()
    assert tracker.rival(older) is None
    thread.join()


def test_one_refusal_is_no_reason_to_compute_again(tracker, uri, job, record, monkeypatch):
    tracker.finish(tracker.start(job, KNOWN), record)
    monkeypatch.setattr(write_module, "_AGAIN", 0.01)
    refusals = [ConnectionError("once")]
    ask = write_module.same_job

    def once(*arguments, **keywords):
        if refusals:
            raise refusals.pop()
        return ask(*arguments, **keywords)

    monkeypatch.setattr(write_module, "same_job", once)
    assert tracker.earlier(job, KNOWN).metrics == record.metrics


@pytest.mark.parametrize("forced", [False, True])
def test_job_computed_while_the_store_was_away_makes_no_second_run(
    tracker, uri, job, record, down, forced
):
    run = tracker.start(job, KNOWN)
    if not forced:
        assert tracker.rival(run) is None
    tracker.finish(run, record)
    down.undo()
    other = MlflowTracker(uri)
    other._spool = type(other._spool)(tracker._spool.folders[0].with_name("elsewhere"))
    other.finish(other.start(job, KNOWN), record)
    tracker.recover()
    assert statuses(uri) == ["FINISHED"] * (2 if forced else 1)
    assert tracker.waiting() is None


def test_figure_that_fails_costs_itself_only(tracker, uri, job, record, monkeypatch):
    def unreadable(_):
        raise OSError("truncated image")

    monkeypatch.setattr("harness.charts.draw_curves", unreadable)
    run = tracker.start(job, KNOWN)
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

    run = tracker.start(job, KNOWN)
    tracker.finish(run, record, attach=attach)
    [finished] = found(uri)
    assert finished.data.metrics["image_auroc"] == record.metrics["image_auroc"]
    assert "half" not in {file.path for file in connect(uri).list_artifacts(run.run_id)}


@pytest.mark.parametrize("owner", ["dead", "alive", "none"])
def test_half_written_entries_of_dead_processes_are_removed(tracker, job, record, down, owner):
    tracker.finish(tracker.start(job, KNOWN), record)
    [whole] = spooled(tracker)
    part = whole.rename(whole.with_name(f".{whole.name}"))
    tags = this_process() | ({"process.pid": "999999999"} if owner == "dead" else {})
    (part / "owner.json").write_text(str(tags).replace("'", '"'))
    if owner == "none":
        (part / "owner.json").unlink()
    down.undo()
    tracker.recover()
    assert part.exists() == (owner != "dead")
    if owner == "none":
        os.utime(part, (0, 0))
        tracker.recover()
        assert not part.exists()


def test_a_damaged_entry_is_told_and_never_sent(tracker, uri, job, record, down):
    tracker.finish(tracker.start(job, KNOWN), record)
    [folder] = spooled(tracker)
    file = folder / "run.json"
    whole = file.read_text()
    value = repr(record.metrics["image_auroc"])
    assert value in whole
    file.write_text(whole.replace(value, f"1{value[1:]}"))
    assert list(tracker._spool.find(KNOWN.identity)) == []
    down.undo()
    tracker.recover()
    assert "its checksum does not fit" in tracker.waiting()
    assert statuses(uri) == []
    file.write_text(whole)
    tracker.recover()
    assert statuses(uri) == ["FINISHED"]


def test_an_entry_of_before_there_were_checksums_is_sent(tracker, uri, job, record, down):
    tracker.finish(tracker.start(job, KNOWN), record)
    [folder] = spooled(tracker)
    (folder / "run.json").write_text(json.dumps(asdict(read_entry(folder))))
    down.undo()
    tracker.recover()
    assert statuses(uri) == ["FINISHED"]


def test_nothing_is_removed_through_a_link_in_place_of_another_disk(tmp_path):
    """The name of that folder can be told by anybody, where everybody may write."""
    home = tmp_path / "home"
    old = home / ".ssh"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    spool = Spool(tmp_path / "spool")
    spool.folders[1] = tmp_path / "linked"
    spool.folders[1].symlink_to(home)
    spool.sweep_up()
    assert old.exists()
    assert list(spool) == []
    hidden = tmp_path / "spool" / ".hidden"  # nor what is none of ours in our own
    hidden.mkdir(parents=True)
    os.utime(hidden, (0, 0))
    spool.sweep_up()
    assert hidden.exists()


@pytest.mark.parametrize("kind", ["link", "writable by others"])
def test_no_result_is_kept_where_others_may_write(tmp_path, job, record, kind):
    spool = Spool(tmp_path / "full" / "spool")
    (tmp_path / "full").touch()
    spool.folders = [spool.folders[0], tmp_path / "theirs", tmp_path / "own"]
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "theirs").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs").chmod(0o777)
    entry = _entry(OpenRun(job), "FINISHED", tags={})
    where = spool.add(entry, lambda folder: None)
    assert where.parent == tmp_path / "own"
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
    assert list(spool) == [where]
    assert not list((tmp_path / "theirs").iterdir())


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_makes_no_file_behind_a_link_and_waits_for_no_pipe(tmp_path, kind):
    path = tmp_path / "lock"
    if kind == "pipe":
        os.mkfifo(path)
        with locked(path) as held:
            assert held
        return
    path.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"), locked(path):
        pass
    assert not (tmp_path / "target").exists()


def test_interrupted_run_waits_to_be_closed_if_the_store_is_away(tracker, uri, job, down):
    down.undo()
    run = tracker.start(job, KNOWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker, "_try", lambda action: None)
        tracker.kill(run)
    [folder] = spooled(tracker)
    assert read_entry(folder).status == "KILLED"
    tracker.recover()
    assert statuses(uri) == ["KILLED"]


def test_store_that_goes_away_while_results_are_sent_is_told(tracker, job, record, down):
    tracker.finish(tracker.start(job, KNOWN), record)
    with pytest.raises(StoreError, match="nobody answers"):
        tracker.recover()


def test_process_that_ends_while_it_is_looked_at_is_gone(monkeypatch):
    def ended(*_, **__):
        raise ProcessLookupError

    assert process(os.getpid())["process.started"] == started(os.getpid())
    monkeypatch.setattr("pathlib.Path.read_text", ended)
    assert started(os.getpid()) is None
