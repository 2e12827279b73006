"""A sweep over all categories of a dataset ends with the run of their averages."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.tracking import read_runs
from tests.sweep.conftest import averages, in_process, runs

ALL = ("-m", "dataset=btad", "category=glob(*)", "localizer=none")


def named(client):
    return {run.info.run_name for run in averages(client)}


def test_sweep_over_all_categories_ends_with_their_average(client):
    ended = in_process(*ALL, "model=dfkde,knn")
    assert ended.status == 0, ended.err
    kept = {run.info.run_name: run for run in averages(client)}
    assert set(kept) == {f"btad/Average · {m} · custom · s42" for m in ("dfkde", "knn")}
    for run in kept.values():
        same = [r for r in runs(client) if r.data.tags["model"] == run.data.tags["model"]]
        ordered = sorted(same, key=lambda r: r.data.tags["category"])
        assert run.data.tags["runs"] == ",".join(r.info.run_id for r in ordered)
        values = [r.data.metrics["image_auroc"] for r in ordered]
        assert run.data.metrics["image_auroc"] == sum(values) / 3
    assert len(read_runs()) == len(runs(client)) == 6
    again = in_process(*ALL, "model=dfkde,knn")
    assert (again.status, again.err) == (0, "")
    assert again.out.count(": skipped (run ") == 6
    assert len(averages(client)) == 2


def test_average_comes_with_the_last_category(client, datasets, folder):
    broken = folder / "broken"
    shutil.copytree(datasets / "btad", broken)
    shutil.rmtree(broken / "02" / "test")
    sweep = ("-m", "dataset=btad", "localizer=none", f"dataset.root={broken}")
    assert in_process(*sweep, "category=glob(*)").status == 1
    assert in_process(*sweep, "category=01,03").status == 0
    assert averages(client) == []
    shutil.copytree(datasets / "btad" / "02", broken / "02", dirs_exist_ok=True)
    assert in_process(*sweep, "category=02").status == 0
    assert averages(client) == []
    assert in_process(*sweep, "category=glob(*)").status == 0
    assert named(client) == {"btad/Average · dfkde · custom · s42"}


def test_without_tracking_there_is_none(folder):
    ended = in_process(*ALL, "tracking=none")
    assert (ended.status, ended.err) == (0, "")
    assert not Path("runs/outbox").exists()


def test_averages_go_where_the_prefix_says(client):
    assert in_process(*ALL, "tracking.prefix=alice/").status == 0
    [run] = averages(client)
    assert client.get_experiment(run.info.experiment_id).name == "alice/btad"
    assert in_process(*ALL, "tracking.prefix=alice/").status == 0
    assert len(averages(client)) == 1
