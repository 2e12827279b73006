"""What Hydra can be asked for: a sweep does it, or refuses it in one line before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from hydra.experimental.callback import Callback

from harness.features import reader
from tests.sweep.conftest import in_process

ONE = ("dataset=btad", "category=01", "localizer=none", "tracking=none", "features.cache=null")


class Multirun(Callback):
    """A callback that a sweep can do."""

    def on_multirun_start(self, config, **kwargs):
        Path("began").touch()

    def on_multirun_end(self, config, **kwargs):
        Path("ended").touch()


class JobStart(Callback):
    """A callback that it cannot."""

    def on_job_start(self, config, **kwargs):
        Path("began").touch()


@pytest.fixture
def declare(empty_folder):
    """Write `more/experiment/NAME.yaml`; `-cd more` lets it be chosen."""

    def write(name, hydra=None, defaults=(), **settings):
        path = empty_folder / "more" / "experiment" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"defaults": [{"override /dataset": "btad"}, *defaults], **settings}
        content["hydra"] = {"sweeper": {"params": {"category": "01"}}} | (hydra or {})
        path.write_text(f"# @package _global_\n{yaml.safe_dump(content)}")

    return write


def refused(ended):
    """Return the one line of a command that did nothing."""
    lines = ended.err.splitlines()
    assert (ended.status, ended.out, len(lines)) == (1, "", 1), ended.out + ended.err
    assert not Path("runs").exists()
    return lines[0]


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("hydra.job.chdir=true", "hydra.job.chdir must be false under -m, got true"),
        ("hydra.output_subdir=.hydra", "hydra.output_subdir must be null under -m, got .hydra"),
        (
            "hydra.sweep.subdir=${hydra.job.override_dirname}",
            "hydra.sweep.subdir must be ${hydra.job.num} under -m,"
            " got ${hydra.job.override_dirname}",
        ),
        ("hydra.verbose=true", "hydra.verbose must be false under -m, got true"),
        ("hydra/job_logging=default", "hydra.job_logging.root must be null under -m, got "),
        ("hydra/sweeper=basic", "hydra/sweeper must be harness, got hydra._internal."),
        (
            "+hydra.job.env_set.HOME_OF=${dataset.name}",
            "hydra.job.env_set.HOME_OF must not depend on settings, for all jobs of a sweep share"
            " it; got ${dataset.name}",
        ),
        (
            "+hydra.job.env_set.HOME_OF=${nowhere:x}",
            "hydra.job.env_set.HOME_OF: Unsupported interpolation",
        ),
        ("+hydra.sweeper.params.experiment=demo", "hydra.sweeper.params must not have experiment"),
        ("seed=1 seed=2", "seed must be given once, got seed=1 and seed=2"),
        ("seed=1 ++seed=2,3", "seed must be given once, got seed=1 and ++seed=2,3"),
        ("seed=interval(0,5)", "seed=interval(0,5) must be a list of values, or a range"),
        ("seed=range(5,5)", "seed=range(5,5) must have values, and has none"),
        ("seed=range(0,5,0)", "seed=range(0,5,0): range() arg 3 must not be zero"),
        ("seed=range(0.0,5.0,0.0)", "seed=range(0.0,5.0,0.0): Invalid range values"),
        ("seed=glob(*)", "seed=glob(*) must have values, and has none"),
        ("fail_fast=true,false", "fail_fast must be the same for all jobs of a sweep"),
        ("model=knn,null", "Config group override must be a string or a list. Got NoneType"),
        ("--cfg job", "only one of --multirun, --cfg and --info can be given"),
        ("--resolve", "The --resolve flag can only be used in conjunction with --cfg or --help"),
        ("model=glob(x*)", "model=glob(x*) must have values, and has none"),
        (
            "experiment=demo,btad_resnet50 dataset=mvtec,btad",
            "dataset and experiment must not both be swept, for an experiment has a dataset; got",
        ),
        ("features.maps=${dataset.name}", "Value 'btad' is not a valid bool"),
        ("n_train=${nowhere}", "Interpolation key 'nowhere' not found"),
        ("model.name=???", "model.name must be given; docs/settings.md says what it is"),
    ],
)
def test_what_a_sweep_does_not_do_is_named(empty_folder, argument, line):
    given = [o for o in ONE if "experiment=demo," not in argument or not o.startswith("dataset=")]
    assert line in refused(in_process("-m", *argument.split(), *given))


def test_callbacks_of_the_sweep_are_called_and_variables_put_back(empty_folder, monkeypatch):
    monkeypatch.setenv("GIVEN", "before")
    callback = "+hydra.callbacks.one._target_=tests.sweep.test_asked.Multirun"
    variables = ("+hydra.job.env_set.GIVEN=in", "+hydra.job.env_set.FRESH=in")
    assert in_process("-m", *ONE, callback, *variables).status == 0
    assert Path("began").exists()
    assert Path("ended").exists()
    assert (os.environ["GIVEN"], os.environ.get("FRESH")) == ("before", None)


def test_callbacks_of_jobs_are_refused(empty_folder):
    ended = in_process("-m", *ONE, "+hydra.callbacks.one._target_=tests.sweep.test_asked.JobStart")
    assert "hydra.callbacks must not have on_job_start under -m" in refused(ended)
    assert "got JobStart" in ended.err


@pytest.mark.parametrize("launcher", [pytest.param("worker", marks=pytest.mark.slow), "in_process"])
def test_jobs_have_the_variables_that_an_experiment_sets(declare, monkeypatch, launcher):
    """Set before a worker starts: some libraries read theirs when they are imported."""
    monkeypatch.setenv("TINY_SEEN", str(Path("seen").resolve()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(reader, "_readers", {})  # another test may have built the network
    declare("one", {"job": {"env_set": {"CUDA_VISIBLE_DEVICES": "5"}}})
    chosen = f"hydra/launcher={launcher}"
    ended = in_process("-m", "-cd", "more", "experiment=one", *ONE[2:], chosen)
    assert ended.status == 0, ended.err
    seen = [json.loads(line) for line in Path("seen").read_text().splitlines()]
    assert {one["CUDA_VISIBLE_DEVICES"] for one in seen} == {"5"}


@pytest.mark.parametrize(
    ("hydra", "line"),
    [
        (
            {"job": {"env_set": {"A": "1"}}},
            "hydra.job.env_set.A must be the same for all jobs of a sweep, got 1 and null",
        ),
        (
            {"launcher": {"n_jobs": 2}},
            "hydra.launcher.n_jobs must be the same for all jobs of a sweep, got 2 and null",
        ),
        ({"callbacks": {"a": {"_target_": "x"}}}, "hydra.callbacks.a._target_ must be the same"),
        ({"sweep": {"dir": "elsewhere"}}, "hydra.sweep.dir must be the same"),
    ],
)
def test_swept_experiments_share_what_hydra_does(declare, hydra, line):
    sweeper = {"sweeper": {"params": {"category": "01"}}}
    declare("one", sweeper | hydra)
    declare("two", sweeper)
    ended = in_process("-m", "-cd", "more", "experiment=one,two", *ONE[2:])
    assert line in refused(ended)


@pytest.mark.parametrize("experiments", ["one", "one,two"])
def test_a_launcher_that_an_experiment_chooses_is_refused(declare, experiments):
    declare("one", defaults=[{"override /hydra/launcher": "joblib"}])
    declare("two")
    ended = in_process("-m", "-cd", "more", f"experiment={experiments}", *ONE[2:])
    assert refused(ended) == (
        "hydra/launcher must be chosen on the command line: experiment=one asks for"
        " hydra/launcher=joblib, and the sweep has in_process"
    )


def test_a_launcher_that_both_choose_is_used(declare):
    declare("one", defaults=[{"override /hydra/launcher": "in_process"}])
    ended = in_process("-m", "-cd", "more", "experiment=one", *ONE[2:])
    assert ended.status == 0, ended.err
