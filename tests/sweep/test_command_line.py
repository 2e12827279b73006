"""What `python -m harness.run` promises: which jobs run, what happens to a failing one."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.sweep.conftest import as_process, in_process, runs


def cells(client, **tags):
    found = runs(client, **tags)
    return sorted((run.data.tags["dataset"], run.data.tags["category"]) for run in found)


def planned(*sweep):
    """The cells that a sweep would run, in their order."""
    ended = in_process("-m", *sweep, "localizer=none", "plan=true")
    assert ended.status == 0, ended.err
    return re.findall(r"^run +(\w+)/(\w+) ", ended.out, flags=re.MULTILINE)


def test_glob_runs_the_categories_of_each_dataset(folder):
    found = planned("dataset=mvtec,btad,visa", "category=glob(*)")
    assert len(found) == len(set(found)) == 30
    assert [dataset for dataset, _ in found].count("mvtec") == 15
    assert {category for dataset, category in found if dataset == "btad"} == {"01", "02", "03"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (["dataset=mvtec", "category=glob(b*)"], {"bottle"}),
        (["dataset=mvtec", "category=glob([c*,g*],exclude=c*)"], {"grid"}),
        (["dataset=mvtec,btad", "category=tile,01"], {"tile", "01"}),
        (["dataset=btad", "category=01"], {"01"}),
        (["dataset=btad", "category='02'"], {"02"}),
        (["dataset=btad", "category=03", "seed=1,2"], {"03"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_choice_of_categories(client, choice, expected):
    ended = in_process("-m", *choice, "localizer=none")
    assert ended.status == 0, ended.err
    assert {category for _, category in cells(client)} == expected


def test_each_swept_experiment_brings_its_own_sweeps(folder):
    found = planned("experiment=btad_resnet50,visa_efficientnet_lite0")
    assert [dataset for dataset, _ in found] == ["btad"] * 3 + ["visa"] * 12


def test_command_line_replaces_the_sweeps_of_experiments(client):
    tables = "experiment=btad_resnet50,visa_efficientnet_lite0"
    ended = in_process("-m", tables, "category=01,candle", "seed=1,2", "localizer=none")
    assert ended.status == 0, ended.err
    assert cells(client) == [("btad", "01")] * 2 + [("visa", "candle")] * 2


def test_category_of_digits_stays_text_in_a_single_run(client):
    assert in_process("dataset=btad", "category=01", "localizer=none").status == 0
    assert cells(client) == [("btad", "01")]


def test_category_of_none_of_the_datasets(client):
    ended = in_process("-m", "dataset=mvtec,btad", "category=pil")
    assert ended.status == 1
    assert "'pil' is not in dataset mvtec, btad; did you mean 'pill'?" in ended.err
    assert not runs(client)


def test_glob_that_matches_nothing_is_an_error(client):
    ended = in_process("-m", "dataset=mvtec,btad", "category=glob(q*)")
    assert ended.status == 1
    assert "category=glob(...) matches no category" in ended.err
    assert not runs(client)


def test_failing_category_does_not_stop_the_others(client, datasets, folder):
    broken = folder / "broken"
    shutil.copytree(datasets / "mvtec", broken)
    next((broken / "cable" / "ground_truth" / "spot").iterdir()).unlink()
    sweep = ("-m", "dataset=mvtec", "category=bottle,cable,pill", f"dataset.root={broken}")

    ended = in_process(*sweep)

    assert ended.status == 1
    assert "1 of 3 jobs failed" in ended.err
    assert "mvtec/cable · dfkde · custom · s42: failed: DataError: " in ended.out
    [failed] = runs(client, category="cable")
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error.class"] == "DataError"
    assert "cable" in failed.data.tags["error.message"]
    assert "Traceback" in client_text(client, failed, "traceback.txt")
    finished = [run for run in runs(client) if run.info.status == "FINISHED"]
    assert {run.data.tags["category"] for run in finished} == {"bottle", "pill"}

    shutil.rmtree(broken)
    shutil.copytree(datasets / "mvtec", broken)
    again = in_process(*sweep)

    assert again.status == 0, again.err
    for run in finished:
        assert f"skipped (run {run.info.run_id}, commit " in again.out
    assert len(runs(client)) == 4
    assert len(runs(client, category="cable")) == 2


def client_text(client, run, name):
    with open(client.download_artifacts(run.info.run_id, name), encoding="utf-8") as file:
        return file.read()


def test_forced_job_runs_again(client):
    job = ("dataset=btad", "category=01", "localizer=none")
    assert [in_process(*job).status for _ in range(2)] == [0, 0]
    assert len(runs(client)) == 1
    assert in_process(*job, "force=true").status == 0
    first, second = runs(client)
    assert first.data.tags["identity"] == second.data.tags["identity"]
    assert first.data.metrics["image_auroc"] == second.data.metrics["image_auroc"]


def test_process_ends_with_the_outcome_as_its_status(folder):
    bad = as_process("dataset=btad", "category=01", "tracking=none", "dataset.root=nowhere")
    assert bad.status == 1
    assert "nowhere" in bad.err
    assert bad.out == ""
