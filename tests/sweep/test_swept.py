"""Runs of a sweep have names that tell them apart, and lie in experiments of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.config import name_differences
from harness.tracking import read_job, read_runs
from tests.sweep.conftest import in_process, runs

ALL = ("-m", "dataset=btad", "category=glob(*)", "localizer=none")


def test_names_tell_swept_settings_and_identities_do_not(client):
    one = ("dataset=btad", "category=01", "localizer=none")
    assert in_process("-m", *one, "n_train=5,6", "model.params.n_components=2,3").status == 0
    found = {run.info.run_name: run for run in runs(client)}
    suffixes = [f"model.params.n_components={c} · n_train={n}" for n in (5, 6) for c in (2, 3)]
    assert set(found) == {f"btad/01 · dfkde · custom · s42 · {suffix}" for suffix in suffixes}
    assert {run.data.tags["swept"] for run in found.values()} == set(suffixes)
    again = in_process("-m", *one, "n_train=5", "model.params.n_components=2")
    assert "btad/01 · dfkde · custom · s42: skipped (run " in again.out
    assert len(runs(client)) == 4
    run_id = runs(client)[0].info.run_id
    text = Path(client.download_artifacts(run_id, "job.yaml")).read_text()
    assert "swept" not in yaml.safe_load(text)
    assert read_job(run_id, trusted=["tiny_backbone:build"]).swept == ""


def suffixes(*jobs):
    return [job.swept for job in name_differences(jobs)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{}, {"seed": 1}, {"category": "grid"}], ["", "", ""]),
        ([{}, {"image_size": 224}], ["image_size=64", "image_size=224"]),
        ([{"n_train": 5}, {}, {}], ["n_train=5", "n_train=null", "n_train=null"]),
        (
            [{"allow_random_weights": True}, {}],
            ["allow_random_weights=true", "allow_random_weights=false"],
        ),
        (
            [{"category": "a", "image_size": 8}, {"category": "b"}],
            ["image_size=8", "image_size=64"],
        ),
    ],
)
def test_plain_settings_that_differ_are_reported(job, values, expected):
    assert suffixes(*(replace(job, **own) for own in values)) == expected


def test_settings_of_models_of_two_names_are_not_compared(job):
    knn = replace(job, model=replace(job.model, name="knn", factory="a:b", params={"k": 3}))
    assert suffixes(job, knn) == ["", ""]
    five = replace(knn, model=replace(knn.model, params={"k": 5}))
    assert suffixes(job, knn, five) == ["", "model.params.k=3", "model.params.k=5"]
    plain = replace(knn, model=replace(knn.model, params={}))
    assert suffixes(knn, plain) == ["model.params.k=3", ""]


def test_a_seed_of_the_model_that_is_the_jobs_is_not_named(job):
    def seeded(seed, state):
        return replace(job, seed=seed, model=replace(job.model, params={"random_state": state}))

    assert suffixes(seeded(1, 1), seeded(2, 2)) == ["", ""]
    assert suffixes(seeded(1, 1), seeded(1, 7)) == ["", "model.params.random_state=7"]


def test_settings_within_a_backbone_and_a_dataset_are_reported(job):
    deep = replace(job, backbone=replace(job.backbone, layers=["a", "b"]))
    assert suffixes(job, deep) == ["backbone.layers=[features]", "backbone.layers=[a,b]"]
    other = replace(job, dataset=replace(job.dataset, name="other", root="/x"))
    assert suffixes(job, other) == ["", ""]
    moved = replace(job, dataset=replace(job.dataset, root="/x"))
    assert suffixes(job, moved) == [f"dataset.root={job.dataset.root}", "dataset.root=/x"]


def test_prefix_keeps_runs_in_experiments_of_its_own(client):
    for _ in range(2):
        assert in_process(*ALL, "tracking.prefix=alice/").status == 0
    assert len(runs(client)) == 3
    assert in_process(*ALL).status == 0
    names = {e.experiment_id: e.name for e in client.search_experiments()}
    found = [names[run.info.experiment_id] for run in runs(client)]
    assert sorted(found) == ["alice/btad"] * 3 + ["btad"] * 3
    assert len(read_runs()) == 6


@pytest.mark.parametrize("mode", [(), ("-m",)])
@pytest.mark.parametrize("prefix", ["x" * 101, '"a\tb"'])
def test_prefix_that_names_no_experiment_is_reported(client, mode, prefix):
    ended = in_process(*mode, "dataset=btad", "category=01", f"tracking.prefix={prefix}")
    assert ended.status == 1
    assert "tracking.prefix must be at most 100 characters without control" in ended.err
    assert not runs(client)
