"""Whatever is typed wrong is one line with the rule and the nearest valid word; nothing is run."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from tests.sweep.conftest import SETTINGS, as_process, in_process

DATASETS = "dataset must be one of btad, elpv, folder, loco, mvtec, tree, visa, visa_pytorch, got"
GIVEN = {
    "dataset": "dataset=btad",
    "category": "category=01",
    "localizer": "localizer=none",
    "tracking": "tracking=none",
    "features.cache": "features.cache=null",
}

# What is typed, and the beginning of the line; `...` stands for a list of choices.
MISTAKES = [
    ("dataset=mvtech", f"{DATASETS} 'mvtech'; did you mean 'mvtec'?"),
    ("dataset=", f"{DATASETS} ''"),
    ("backbone=resnet5", "backbone must be one of ..., got 'resnet5'; did you mean 'resnet50'?"),
    ("model=dfkd", "model must be one of ..., got 'dfkd'; did you mean 'dfkde'?"),
    ("tracking=sqlit", "tracking must be one of ..., got 'sqlit'; did you mean 'sqlite'?"),
    ("experiment=dem", "experiment must be one of ..., got 'dem'; did you mean 'demo'?"),
    ("hydra/launcher=joblb", "hydra/launcher must be one of ..., got 'joblb'; did you mean 'jobli"),
    (
        "model.params.n_component=8",
        "model.params.n_component is not a setting; did you mean 'n_components'? Choose from: n_c",
    ),
    (
        "backbone.arguments.depth=3",
        "backbone.arguments.depth is not a setting: backbone.arguments has none",
    ),
    (
        "model.factory=tests.centroid:Centroid",
        "model.params.n_components is not a parameter of tests.centroid:Centroid, which has none",
    ),
    ("sed=1", "sed is not a setting; did you mean 'seed'? Choose from: dataset, backbone, model,"),
    ("modle=knn", "modle is not a setting; did you mean 'model'?"),
    (
        "dataset.rot=x",
        "dataset.rot is not a setting; did you mean 'root'? Choose from: name, title,",
    ),
    ("+n_trian=10", "n_trian is not a setting; did you mean 'n_train'?"),
    ("+features.worker=2", "features.worker is not a setting; did you mean 'workers'?"),
    ("++dataset.oficial=false", "dataset.oficial is not a setting; did you mean 'official'?"),
    ("~sed", "sed is not a setting"),
    ("seed=abc", "seed must be an integer, got 'abc'"),
    ("seed=1.5", "seed must be an integer, got '1.5'"),
    ("seed=null", "seed must not be null"),
    ("force=maybe", "force must be true or false, got 'maybe'"),
    ("train_contamination=much", "train_contamination must be a number, got 'much'"),
    ("+seed=1", "seed is set already: leave out +"),
    ("n_train=${nowhere}", "n_train: Interpolation key 'nowhere' not found"),
    ("dataset.root=${oc.env:NOPE}", "dataset.root: Environment variable 'NOPE' not found"),
    (
        "category=*",
        "category='*' is not in dataset btad; with -m, a pattern is 'category=glob(*)'.",
    ),
    ("category=1", "category='1' is not in dataset btad; did you mean '01'? Choose from: 01, 02,"),
    (
        "category=glob(*",
        "the value of category cannot be read: quote what is text, as 'category=\"g",
    ),
    ("seed", "'seed' must be written as setting=value"),
    ("backbone=custom", "backbone.factory must be given"),
    ("backbone.factory=tiny_backbone:bild", "backbone.factory must be module:function or path/to/"),
    ("backbone.factory=nowhere:build", "backbone.factory must be module:function or path/to/file"),
    (
        "localizer=oclusion",
        "localizer must be one of ..., got 'oclusion'; did you mean 'occlusion'?",
    ),
    ("features.engine=tourch", "engine must be one of ..., got 'tourch'; did you mean 'torch'?"),
    ("features.resize=pl", "features.resize must be one of ..., got 'pl'; did you mean 'pil'?"),
    (
        "dataset.reader=mvtek",
        "dataset.reader must be one of ..., got 'mvtek'; did you mean 'mvtec'?",
    ),
    ("model.factory=dfkde:Nope", "model.factory must be an importable 'module:class' or"),
    ("model.params.n_components=abc", "n_components must be an integer of at least 1, got 'abc'"),
    ("--mutlirun", "--mutlirun is not an option; did you mean '--multirun'?"),
    ("--cfg", "argument --cfg/-c: invalid choice: 'dataset=btad' (choose from"),
]


@pytest.mark.parametrize(
    ("mode", "typed", "line"),
    # A sweep explains what Hydra says by the same words.
    [*(([], *mistake) for mistake in MISTAKES), *((["-m"], *one) for one in MISTAKES[1::4])],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_typing_error_is_one_line(empty_folder, mode, typed, line):
    key = typed.lstrip("+~").partition("=")[0]
    given = [text for name, text in GIVEN.items() if name != key]
    settings = [text for text in SETTINGS if not text.startswith((f"{key}=", f"{key}."))]
    ended = in_process(*mode, typed, *given, settings=settings)
    assert (ended.status, ended.out) == (1, "")
    [said] = ended.err.splitlines()
    assert re.match(re.escape(line).replace(r"\.\.\.", ".*"), said), said
    assert not Path("runs", "mlflow.db").exists()


def refused(*arguments):
    ended = in_process(*arguments, *GIVEN.values())
    assert (ended.status, ended.out) == (1, "")
    [line] = ended.err.splitlines()
    return line


def test_several_values_need_a_sweep(empty_folder):
    assert refused("seed=1,2") == "seed=1,2 has several values: add -m to run a job for each"
    assert refused("seed=range(1,3)").startswith("seed=range(1,3) has several values: add -m")


def test_an_interval_is_no_list(empty_folder):
    assert refused("-m", "seed=interval(0,1)").endswith("must be a list of values, or a range")


def test_a_folder_of_logs_that_cannot_be_made_is_one_line(empty_folder):
    line = (
        "hydra.run.dir must be a folder that can be made and written to: [Errno 20] Not a directory"
    )
    assert refused("hydra.run.dir=/dev/null/x").startswith(line)


def test_another_file_that_cannot_be_read_is_named_alone(empty_folder, monkeypatch):
    def fail(config):
        raise PermissionError(errno.EACCES, "Permission denied", "/some/file")

    monkeypatch.setattr("harness.run._check", fail)
    assert refused() == "[Errno 13] Permission denied: '/some/file'"


def test_a_plan_is_made_where_one_job_is_asked_for(empty_folder):
    ended = in_process("--run", *GIVEN.values(), "plan=true")
    assert ended.status == 0, ended.err
    assert ended.out.startswith("run  ")


def test_options_may_stand_anywhere(empty_folder):
    ended = in_process("dataset=btad", "-m", "category=01", "plan=true")
    assert ended.out.startswith("run  "), ended.err


def test_a_process_prints_one_line_and_fails(empty_folder):
    ended = as_process("dataset=btad", "category=01", "sed=1")
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert ended.err.startswith("sed is not a setting; did you mean 'seed'?")
