"""Every command of this project that a page names does what the page says, on small data.

Here sweeps are planned, which makes all their checks; `make test-slow` runs them. Every
other command is run on the runs of a few of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from harness.data.__main__ import main as data_main
from harness.data.official import ARCHIVES
from harness.predict.__main__ import main as predict
from harness.report.__main__ import main as report
from harness.tracking import read_runs
from harness.tracking.store import connect
from tests.predict.test_mlflow import served
from tests.report.conftest import _compose_once as compose_once
from tests.sweep.conftest import in_process
from tests.sweep.documented import (
    EVERY,
    ROOT,
    User,
    of_module,
    words,
    write_checkout,
    write_data,
)

MODULES = tuple(
    f"harness.{name}" for name in ("report", "gallery", "features", "tracking", "predict", "data")
)
INSTALLATION = {"python3", ".venv/bin/pip", "pip", "source", "export", "sudo"}
# Programs that a test starts, and where; each of them is slow.
ELSEWHERE = {
    "mlflow models serve": "tests/predict/test_mlflow.py",
    "mlflow server": "tests/sweep/postgresql.py",
    "printf": "tests/sweep/test_documented_commands.py",
    "curl": "tests/sweep/test_documented_commands.py",
    "sinfo": "tests/sweep/slurm.py",
    "python docs/picture.py": "tests/sweep/test_documented_commands.py",
}
# Each shows runs of its own page's sweeps.
OF_MODELS = [
    shlex.join(words(line)[2:])
    for page, line in EVERY
    if page == "models.md" and "harness.report show" in line
]
# What each command says; of those with an empty text, that it says nothing.
SAYS = {
    "harness.report": r"wrote results, README.md, docs/results.md\n",
    "harness.report --check": "",
    "harness.report --only demo": r"wrote results, README.md",
    "harness.report --replace demo": r"wrote results, README.md",
    "harness.report --remove-missing": r"wrote results, README.md",
    "harness.report --uri '$MLFLOW_TRACKING_URI' --only demo_n_train": r"wrote results, README.md",
    "harness.report compare published": r"anomalib ResNet18",
    "harness.report compare published --methods": r"PatchCore",
    "harness.report compare mvtec_resnet50 mvtec_efficientnet_lite0": r"\| bottle +\|",
    "harness.report compare TABLE TABLE": r"\| bottle +\|",
    "harness.report latex mvtec_resnet50": r"\\begin{table}",
    "harness.report html": r"wrote runs/report.html, [0-9.]+ MB\n",
    "harness.report show dataset=mvtec": r"\| bottle +\|",
    "harness.report show category=bottle rows=model,localizer columns=metric": r"\| dfkde",
    "harness.report show category=bottle rows=defect_type": r"\| scratch",
    "harness.report show dataset=elpv columns=n_train format=csv": r"(?m)^mono,",
    "harness.report show dataset=mine metric=image_average_precision --uri URI": r"\| gear",
    "harness.gallery": r"mvtec/pill.*: \d+ images in runs/gallery/mvtec_efficientnet_lite0/pill\n",
    "harness.gallery --trusted mynet:build": r"elpv/poly.*: \d+ images in runs/gallery/demo/poly",
    "harness.features list": r"(?m)^KEY +WEIGHTS .*\n\w{12}  \w{12} +64  torch fp32 cpu pil",
    "harness.features verify": r"(?m)^\d+ entries, 0 damaged\n",
    "harness.features prune --limit-gb 20": r"(?m)^0 entries removed\n",
    "harness.tracking push": r"(?m)^nothing is waiting\n",
    "harness.tracking close": r"(?m)^\w{32} open: elpv/\w+ · dfkde .*, process \d+ of ",
    "harness.tracking close RUN_ID": r"(?m)^\w{32} closed: elpv/\w+ · dfkde .*, process \d+ of ",
    "harness.tracking ui --port 5001": r"(?m)^mvtec: http://127.0.0.1:\d+/#/experiments/\d+",
    "harness.tracking ui --uri sqlite:///some/where/mlflow.db": r"(?m)^elpv: http://127.0.0.1:",
    "harness.predict model=RUN_ID images=FOLDER": r"anomalous, \d+ normal, 0 failed\n",
    "harness.predict model=RUN images=FOLDER": r"anomalous, \d+ normal, 0 failed\n",
    "harness.predict model=RUN_ID images=FOLDER trusted=mymodule:Centroid,mynet:build": (
        r"anomalous, \d+ normal, 0 failed\n"
    ),
    "harness.data fetch dataset=mvtec": r"CC BY-NC-SA 4.0.*(?s:.*)done; check it with",
    "harness.data fetch dataset=btad url=https://mirror/btad.zip": r"(?s)BTAD: CC .*done; check it",
    "harness.data synthetic dataset=btad dataset.root=/tmp/btad scale=0.1 side=64": r"written to ",
    "harness.data verify dataset=btad dataset.root=/tmp/btad dataset.official=false": (
        r"3 of 3 categories passed\n"
    ),
    "harness.data verify dataset=mvtec": r"15 of 15 categories passed\n",
}
OWN = (
    "category=bottle model=centroid backbone=custom backbone.factory=mynet:build"
    " 'backbone.layers=[layer4]' save_model=true"
)
# These take a second or more each.
SLOW = {
    "harness.predict model=RUN_ID images=FOLDER trusted=mymodule:Centroid,mynet:build",
    "harness.gallery",
    "harness.gallery --trusted mynet:build",
    "harness.predict model=RUN images=FOLDER",
    "harness.data synthetic dataset=btad dataset.root=/tmp/btad scale=0.1 side=64",
}
# What the runs of the tests are of: a few jobs of the sweeps that the pages name.
FIRST = (
    "-m experiment=mvtec_efficientnet_lite0 category=bottle,pill",
    "-m experiment=mvtec_resnet50 category=bottle,pill",
    "-m experiment=demo",
    "-m experiment=demo_n_train seed=0 category=mono",
    "category=bottle backbone=efficientnet_lite0 model=dfkde_residual save_model=true",
    "dataset=mine category=gear dataset.root=PATH backbone=efficientnet_lite0",
)

__all__ = ["compose_once"]  # a fixture of the session: reports compose every declared table


@pytest.fixture(scope="module")
def data(datasets, tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("user") / "data", datasets)


@pytest.fixture(scope="module")
def checkout(data, make_store, tmp_path_factory):
    """A checkout with runs and filled tables."""
    root = write_checkout(tmp_path_factory.mktemp("filled") / "checkout", data)
    make_store(root / "runs")
    (data / "cache").mkdir()
    (root / "cache").symlink_to(data / "cache")  # of all copies
    with pytest.MonkeyPatch.context() as patch:
        user = User(patch, data, root)
        for line in FIRST:
            ended = in_process(*user.words(line), settings=())
            assert ended.status == 0, ended.out + ended.err
        assert report([]) == 0
    return root


@pytest.fixture
def user(data, checkout, monkeypatch, tmp_path):
    """A user in a copy of that checkout."""
    copy = shutil.copytree(checkout, tmp_path / "checkout", symlinks=True)
    return User(monkeypatch, data, copy)


def test_every_command_is_of_a_kind_that_is_tested():
    for page, line in EVERY:
        parts = words(line)
        kind = " ".join(parts[:3]) if " ".join(parts[:3]) in ELSEWHERE else " ".join(parts[:2])
        known = {kind, parts[0]} & {*INSTALLATION, *ELSEWHERE, "make"}
        command = shlex.join(parts[2:])
        known = known or parts[2].startswith(("harness.run", "benchmarks."))
        known = known or command in {*SAYS, *OF_MODELS}
        assert known, (page, line)


@pytest.mark.parametrize(("program", "place"), ELSEWHERE.items())
def test_other_programs_are_started_by_another_test(program, place):
    text = (ROOT / place).read_text(encoding="utf-8")
    found = [word for word in re.findall(r"[\w-]+", program) if word != "python"]
    assert all(word in text for word in found)


# Those of the page of models are dozens of jobs, which its own test runs.
PLANNED = [x for x in of_module("harness.run") if not re.search("patch_kde|patch_density", x)]


@pytest.mark.parametrize("line", PLANNED)
def test_a_documented_sweep_can_be_planned(user, line):
    user.patch.setenv("MLFLOW_TRACKING_URI", user.uri)
    asks = any(word in line for word in ("--help", "--cfg", "plan=true"))
    ended = in_process(*user.words(line)[1:], *([] if asks else ["plan=true"]), settings=())
    assert ended.status == 0, ended.out + ended.err
    assert re.search(r"jobs?: |Groups|hydra:", ended.out)


def _marked(lines):
    return [pytest.param(x, marks=[pytest.mark.slow] if x in SLOW else [], id=x) for x in lines]


@pytest.mark.parametrize("line", _marked(SAYS))
def test_a_documented_command_does_what_its_page_says(user, line, capsys):
    assert line in of_module(*MODULES)
    _prepare(user, line)
    module, *arguments = user.words(line)
    arguments += ["--port", str(_free_port())] if "ui" in arguments else []
    status = main_of(module)(arguments)
    said = capsys.readouterr()
    text = said.out + said.err
    assert status == 0, text
    assert re.search(SAYS[line] or "^$", text), text


def main_of(module):
    name = module if module == "harness.gallery" else f"{module}.__main__"
    return import_module(name).main


def _prepare(user, line):
    """Make what the page takes for granted, or has made by the command before."""
    if line.startswith("harness.tracking close"):
        user.runs["RUN_ID"] = _open_run(user)
    elif line.startswith("harness.predict"):
        model = "centroid" if "trusted" in line else "dfkde_residual"
        if "trusted" in line:
            assert in_process(*user.words(OWN), settings=()).status == 0
        [kept] = [run for run in read_runs(user.uri) if run.record.model == model]
        user.runs |= {"RUN_ID": kept.run_id, "RUN": kept.run_id}
    elif "show dataset=mvtec" in line or "show category" in line:
        # A table shows one backbone.
        for run in read_runs(user.uri):
            if run.record.backbone != "efficientnet_lite0":
                connect(user.uri).delete_run(run.run_id)
    elif line.startswith("harness.tracking ui"):
        user.patch.setattr(os, "execv", lambda program, command: 0)
    elif line.startswith("harness.data fetch"):
        _pack(user, *(("btad", "zip") if "btad" in line else ("mvtec", "xztar")))
    elif line.startswith("harness.data verify dataset=btad"):
        assert data_main(user.words("synthetic dataset=btad dataset.root=/tmp/btad side=32")) == 0


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _open_run(user):
    """Leave a run open, as a process does that was killed; return its id."""
    [first, *_] = [run for run in read_runs(user.uri) if run.record.dataset == "elpv"]
    connect(user.uri).update_run(first.run_id, "RUNNING")
    return first.run_id


def _pack(user, name, form):
    """Put the archive of a dataset where it is looked for, and no dataset."""
    user.patch.delenv("DFKDE_DATA")
    Path("data").mkdir()
    packed = Path(shutil.make_archive("packed", form, user.data / name))
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    user.patch.setitem(ARCHIVES, name, ARCHIVES[name]._replace(sha256=digest))
    packed.rename(Path("data", ARCHIVES[name].url.rpartition("/")[2]))


# Slurm's is run by tests/sweep/test_slurm.py.
SWEEPS = [line for line in PLANNED if not re.search("--help|--cfg|plan=true|slurm", line)]


@pytest.fixture
def empty_store_of(user, make_store):
    """No run yet in the user's checkout."""
    shutil.rmtree("runs")
    return make_store(Path("runs").resolve())


@pytest.mark.slow
@pytest.mark.parametrize("line", SWEEPS)
def test_a_documented_sweep_runs_every_job(user, empty_store_of, line):
    """Workers of other processes do not know that these data are the published ones."""
    user.patch.setenv("MLFLOW_TRACKING_URI", user.uri)
    arguments = user.words(line)[1:]
    arguments += ["dataset.official=false"] if "hydra/launcher" in line else []
    plan = in_process(*arguments, "plan=true", settings=()).out
    ended = in_process(*arguments, settings=())
    assert ended.status == 0, ended.out + ended.err
    states = [run.status for run in read_runs(user.uri)]
    assert states == ["finished"] * int(re.search(r"(\d+) jobs?: ", plan)[1])


@pytest.mark.slow
def test_the_page_of_models_is_filled_by_its_commands(user, empty_store_of):
    page = Path("docs/models.md")
    before, n_jobs = page.read_text(encoding="utf-8"), 0
    for name, line in EVERY:
        if name == "models.md" and "harness.run" in line:
            ended = in_process(*user.words(line)[3:], settings=())
            assert ended.status == 0, ended.out + ended.err
            n_jobs += 1
    assert n_jobs == 3
    assert any("--fill" in line for line in OF_MODELS)
    for line in OF_MODELS:
        assert report(user.words(line)[1:]) == 0
    after = page.read_text(encoding="utf-8")
    shown = r"(?s)(<!-- show: .*? -->).*?<!-- /show -->"
    assert re.sub(shown, r"\1", before) == re.sub(shown, r"\1", after)
    tables = re.findall(r"(?s)<!-- show: (.*?) -->(.*?)<!-- /show -->", after)
    assert len(tables) > 3
    for asked, table in tables:
        models = re.search(r" model=(\S+)", f" {asked}")[1].split(",")
        assert all(model in table for model in models), asked
        assert "not official" not in table


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_served_model_answers_as_the_page_says(user, tmp_path):
    [kept] = [run for run in read_runs(user.uri) if run.record.model == "dfkde_residual"]
    image = next((user.data / "images").rglob("*.png"))
    shutil.copy(image, "image.png")
    lines = [line for _, line in EVERY if line.startswith(("printf", "curl"))]
    with served(kept.run_id, user.uri, log=tmp_path / "serve.log") as address:
        asked = " ".join(lines).replace("http://127.0.0.1:5001/invocations", address)
        done = subprocess.run(
            ["bash", "-c", asked], capture_output=True, text=True, check=True, timeout=120
        )
    [answer] = json.loads(done.stdout)["predictions"]
    assert predict([f"model={kept.run_id}", "images=image.png", "quantile=0.99"]) == 0
    expected = json.loads(Path("predictions/predictions.jsonl").read_text())
    assert {name: expected[name] for name in answer} == answer


@pytest.mark.slow
def test_the_picture_of_the_first_page_is_drawn(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    picture = import_module("picture")
    monkeypatch.setattr(picture, "__file__", str(tmp_path / "picture.py"))  # beside which it goes
    picture.main()
    with Image.open(tmp_path / "picture.webp") as drawn:
        assert drawn.size == picture.SIZE


# With the smallest numbers of each; `--device cuda` needs a GPU.
SMALL = {
    "benchmarks.decoding": "--size 40 --n 1",
    "benchmarks.extraction --images FOLDER": (
        "--n 4 --rounds 1 --only 'torch fp32' --factory mynet:build"
    ),
    "benchmarks.intervals 500": "",
    "benchmarks.map_models --images FOLDER": "--n 6 --n-train 4 --image-size 64 --models padim",
    "benchmarks.metrics": "--quick",
    "benchmarks.overhead": "--jobs 2",
    "benchmarks.overhead --report": "--runs 30",
    "benchmarks.precision --root FOLDER": "--factory mynet:build",
    "benchmarks.scaling": "--n 2 --numbers 40",
    "benchmarks.warm_jobs --root FOLDER": "--factory mynet:build",
}
NO_ARGUMENTS = {"benchmarks.warm_jobs", "benchmarks.extraction --device cuda"}


def test_every_benchmark_of_the_pages_is_run():
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert {*of_module(*(f"benchmarks.{name}" for name in names))} == {*SMALL, *NO_ARGUMENTS}


@pytest.mark.slow
@pytest.mark.parametrize("line", SMALL)
def test_a_documented_benchmark_prints_its_table(user, line, capsys):
    if "metrics" in line:
        pytest.importorskip("torchmetrics", reason="the extra `bench` is not installed")
    module, *arguments = user.words(f"{line.replace('500', '2')} {SMALL[line]}")
    user.patch.setattr(sys, "argv", [module, *arguments])
    import_module(module).main()
    assert re.search(r"(?m)^\|[ :|-]+\|$", capsys.readouterr().out)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_runs_the_commands_of_the_pages_and_of_continuous_integration():
    named = {words(line)[1] for _, line in EVERY if words(line)[0] == "make"}
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert named | {*RECIPES, "check"} <= {line.split()[0] for line in said.stdout.splitlines()}
    assert named <= {*RECIPES, "check"}
    for target, recipe in RECIPES.items():
        command = ["make", "--dry-run", target]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert recipe in shown.stdout, target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    needed = set(re.search(r"(?m)^check: (.*?) ##", makefile)[1].split())
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert {target for line in re.findall(r"(?m)^make (.*)$", ci) for target in line.split()} == (
        needed
    )
    workflows = ROOT / ".github" / "workflows"
    assert "run: bash .ci/run" in (workflows / "ci.yml").read_text(encoding="utf-8")
    assert "run: make test-slow" in (workflows / "slow.yml").read_text(encoding="utf-8")


RECIPES = {
    "demo": "-m harness.run -m experiment=demo",
    "ui": "-m harness.tracking ui --port 5000",
    "test": "-m pytest -n 2 --dist loadfile -m 'not slow'",
    "test-slow": "-m pytest -n 2 --dist loadfile -m slow",
    "format": "ruff format --check .",
    "lint": "ruff check .",
    "types": "mypy",
    "tables": "-m harness.report --check",
}
"""What each target runs."""


def test_the_page_of_settings_is_that_of_the_configuration(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = import_module("settings").page()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page
    for key in ("n_train", "dataset.root", "features.maps", "model.params.n_components", "plan"):
        assert f"| `{key}` |" in page


def test_help_explains_settings_that_exist(empty_folder):
    text = in_process("--help", settings=()).out
    assert "$" not in text
    explained = re.findall(r"^([a-z_./]+)  +\S", text.partition("Common settings")[2], re.MULTILINE)
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert len(explained) > 8
    assert all(f"`{key}`" in page or key == "hydra/launcher" for key in explained)
