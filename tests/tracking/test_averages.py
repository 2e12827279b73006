"""A complete dataset has a run of averages, which no reader takes for the run of a job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.provenance import CHANGED
from harness.record import Outcome
from harness.tracking import JobKey, outdated, read_runs
from harness.tracking.average_runs import averages
from harness.tracking.store import connect, experiment_id
from harness.tracking.tracker import MlflowTracker, open_runs

METRICS = {"bolt": {"image_auroc": 0.1, "image_f1_max": 0.7}, "nut": {"image_auroc": 0.3}}


@pytest.fixture
def tracker(uri):
    return MlflowTracker(uri)


@pytest.fixture
def both(job):
    """The jobs of a dataset of two categories."""
    dataset = replace(job.dataset, categories=["bolt", "nut"])
    return [replace(job, dataset=dataset, category=name) for name in dataset.categories]


@pytest.fixture
def finish(tracker, record):
    """Finish a job as `record`, with what is given, and return its outcome."""

    def finish(job, key=None, **values):
        plain = JobKey(job.category.encode().hex().ljust(64, "0"), official=False, code="c" * 64)
        run = tracker.start(job, plain._replace(**key or {}))
        metrics = METRICS[job.category]
        undefined = {"image_f1_max": "no"} if job.category == "nut" else {}
        own = {"category": job.category, "metrics": metrics, "undefined": undefined} | values
        tracker.finish(run, replace(record, **own))
        return job, Outcome(str(job), "finished", run.run_id, metrics)

    return finish


def keep(tracker, ends):
    return list(averages(tracker, ends))


def kept(uri, experiment="parts"):
    found = connect(uri).search_runs([experiment_id(uri, name=experiment)], "tags.average LIKE '%'")
    return list(found)


def test_complete_dataset_has_the_means_and_names_its_runs(uri, tracker, both, finish):
    ends = [finish(job) for job in both]
    assert keep(tracker, ends) == []
    [run] = kept(uri)
    assert run.info.run_name == "parts/Average · dfkde · tiny · s42"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"image_auroc": (0.1 + 0.3) / 2}
    tags = run.data.tags
    assert tags["undefined.image_f1_max"] == "not defined for nut"
    assert tags["runs"] == ",".join(outcome.run_id for _, outcome in ends)
    cell = {"dataset": "parts", "category": "Average", "model": "dfkde", "backbone": "tiny"}
    cell |= {"seed": "42", "official": "false", "code": "c" * 64, "weights_digest": "a" * 64}
    assert cell.items() <= tags.items()
    assert run.data.params == {"image_size": "32", "model.n_components": "16"}
    assert tracker.waiting() == []


def test_no_reader_takes_it_for_the_run_of_a_job(uri, tracker, both, finish):
    ends = [finish(job) for job in both]
    before = read_runs(uri), outdated(uri)
    keep(tracker, ends)
    [run] = kept(uri)
    assert not {"schema", "identity", "job", "process.host"} & run.data.tags.keys()
    assert (read_runs(uri), outdated(uri)) == before
    assert open_runs(uri) == []
    key = JobKey("", official=False, code="c" * 64)
    assert tracker.finished_run(replace(both[0], category="Average"), key) is None


def test_order_does_not_matter_and_the_same_runs_have_one_average(uri, tracker, both, finish):
    ends = [finish(job) for job in both]
    for again in (ends, ends[::-1]):
        skipped = [(job, replace(outcome, status="skipped")) for job, outcome in again]
        assert keep(tracker, skipped) == []
    assert len(kept(uri)) == 1
    keep(tracker, [ends[0], finish(both[1])])
    assert len(kept(uri)) == 2


@pytest.mark.parametrize("status", ["failed", "busy", "stopped", None])
def test_incomplete_dataset_has_none(uri, tracker, both, finish, status):
    first, (job, second) = [finish(job) for job in both]
    ends = [first] if status is None else [first, (job, replace(second, status=status))]
    assert keep(tracker, ends) == []
    assert kept(uri) == []


def test_dataset_of_one_category_has_none(uri, tracker, job, finish):
    assert keep(tracker, [finish(job)]) == []
    assert kept(uri) == []


def test_jobs_of_other_settings_complete_nothing(uri, tracker, both, finish):
    first, second = both
    others = [
        replace(second, image_size=224),
        replace(second, seed=1),
        replace(second, model=replace(second.model, name="knn")),
        replace(second, features=replace(second.features, precision="bf16")),
    ]
    assert keep(tracker, [finish(first), *map(finish, others)]) == []
    assert kept(uri) == []


def test_each_swept_setting_has_its_average(uri, tracker, both, finish):
    jobs = [
        replace(job, image_size=size, swept=f"image_size={size}")
        for job in both
        for size in (32, 64)
    ]
    assert keep(tracker, [finish(job) for job in jobs]) == []
    names = {run.info.run_name: run.data.tags["swept"] for run in kept(uri)}
    cell = "parts/Average · dfkde · tiny · s42"
    assert names == {f"{cell} · image_size={s}": f"image_size={s}" for s in (32, 64)}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"weights_digest": "0" * 64}, "its runs differ in their tags weights_digest"),
        ({"key": {"code": "0" * 64}}, "its runs differ in their tags code"),
        ({"key": {"official": True}}, "its runs differ in their tags official"),
        (
            {"settings": {"image_size": "32", "model.n_components": "8"}},
            "its runs differ in their settings model.n_components",
        ),
    ],
)
def test_runs_that_differ_have_none_and_it_is_said(uri, tracker, both, finish, values, why):
    ends = [finish(both[0]), finish(both[1], **values)]
    assert keep(tracker, ends) == [f"parts/Average · dfkde · tiny · s42: not written: {why}"]
    assert kept(uri) == []


def test_runs_of_edited_code_have_none(uri, tracker, both, finish, monkeypatch):
    monkeypatch.setattr("harness.tracking.contents.code_changed", lambda job: True)
    ends = [finish(job) for job in both]
    assert {connect(uri).get_run(o.run_id).data.tags["code"] for _, o in ends} == {CHANGED}
    [line] = keep(tracker, ends)
    assert line.endswith("not written: the code was edited while its runs computed")
    assert kept(uri) == []


def test_runs_that_wait_in_the_outbox_have_none_yet(uri, tracker, both, finish):
    first = finish(both[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.tracking.outbox._log_values", _broken)
        second = finish(both[1])
    [line] = keep(tracker, [first, second])
    why = "1 of its runs are not in the store yet; the same command writes it once they are"
    assert line.endswith(why)
    unknown = [(job, replace(outcome, run_id=None)) for job, outcome in (first, second)]
    [line] = keep(tracker, unknown)
    assert ": 2 of its runs are not in the store yet" in line
    assert kept(uri) == []
    tracker.recover()
    assert keep(tracker, [first, second]) == []
    assert len(kept(uri)) == 1


def _broken(*_, **__):
    raise ConnectionError("nobody\nanswers")


def test_store_that_fails_costs_the_average_only_and_it_is_sent_once(uri, tracker, both, finish):
    ends = [finish(job) for job in both]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.tracking.store.connect", _broken)
        [line] = keep(tracker, ends)
        assert line.endswith("s42: not written: ConnectionError: nobody answers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.tracking.outbox.create_run", _broken)
        for _ in range(2):
            keep(tracker, ends)
    assert tracker.waiting()[0].startswith("1 results are waiting in ")
    tracker.recover()
    keep(tracker, ends)
    assert len(kept(uri)) == 1


def test_another_process_that_writes_it_is_left_to_it(uri, tmp_path, tracker, both, finish):
    ends = [finish(job) for job in both]
    locked = MlflowTracker(uri, tmp_path / "locks")
    assert keep(locked, ends) == []
    [run] = kept(uri)
    connect(uri).delete_run(run.info.run_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.system.locks._PATIENCE", 0.0)
        with locked.lock(run.data.tags["average"]):
            assert keep(locked, ends) == []
    assert kept(uri) == []
