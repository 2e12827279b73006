"""What a sweep would do is said before it does anything, and what cannot be is refused before."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from dfkde.backbones import presence
from harness.data.synthetic import Plan, write_synthetic
from harness.plan import _duration
from harness.run import main
from tests.sweep.conftest import as_process, in_process, runs

SMALL = ("tracking=none", "localizer=none", "features.cache=null")
PLAN = "plan=true"


def files():
    return sorted(str(path) for path in Path().rglob("*"))


@pytest.fixture
def incomplete(empty_folder, datasets):
    """MVTec AD without two of its categories."""
    root = empty_folder / "incomplete"
    shutil.copytree(datasets / "mvtec", root)
    for name in ("cable", "zipper"):
        shutil.rmtree(root / name)
    return root


def statuses(ended):
    return re.findall(r"^(run|skipped|missing \w+|wrong \w+)  ", ended.out, flags=re.MULTILINE)


def test_a_plan_writes_nothing_and_builds_no_network(empty_folder, monkeypatch):
    monkeypatch.setattr("dfkde.backbones.loading.load_backbone", None)
    for category in ("-m category=01,02 seed=1,2", "category=01"):
        ended = in_process(*category.split(), "dataset=btad", "localizer=none", PLAN)
        assert ended.status == 0, ended.err
        assert set(statuses(ended)) == {"run"}
    job, detail, total = ended.out.splitlines()
    assert job == "run              btad/01 · dfkde · custom · s42"
    # Another test may have read the images.
    unknown = r" {17}unknown until the (images are read|network is built): at most 32 images to"
    assert re.match(f"{unknown} extract; no earlier run to estimate the time from$", detail)
    assert total == "1 job: 1 run"
    assert files() == []


def test_a_plan_knows_what_is_finished_and_what_is_extracted(folder, client):
    """With a network whose digests are cached, and a second category of which nothing is."""
    root = write_synthetic(folder / "btad", "btad", plan=Plan(0.02, 64), categories=["01", "02"])
    command = (
        *("-m", "dataset=btad", f"dataset.root={root}", "dataset.official=false", "image_size=32"),
        *("backbone=efficientnet_lite0", "model.params.n_components=2", "localizer=none"),
        "features.engine=torch",
    )
    assert in_process(*command, "category=01", settings=()).status == 0
    [run] = runs(client)
    before = files()

    ended = in_process(*command, "category=01,02", "seed=42,1", PLAN, settings=())

    assert ended.status == 0, ended.err
    assert statuses(ended) == ["skipped", "run", "run", "run"]
    details = [line.strip() for line in ended.out.splitlines()]
    assert details[1].startswith(f"by run {run.info.run_id}, commit ")
    assert details[3].startswith("unknown until the images are read: at most ")
    assert re.fullmatch(r"0 images to extract; about \d+ (s|min)", details[5])
    assert details[7].startswith("unknown until the images are read: at most 0 images")
    assert re.fullmatch(r"4 jobs: 1 skipped, 3 run; about \d+ (s|min) in all", details[-1])
    assert files() == before
    unfitted = [one for one in command if not one.startswith("model.")]
    other = in_process(*unfitted, "category=01", "model=knn", PLAN, settings=())
    assert "0 images to extract; no earlier run to estimate the time from" in other.out
    mapped = [*(one for one in command if one != "localizer=none"), "category=01", "seed=1", PLAN]
    assert " 0 images to extract" in in_process(*mapped, settings=()).out
    recomputed = in_process(*mapped, "features.maps=false", settings=()).out
    assert re.search(r" [1-9]\d* images to extract", recomputed)
    # Once the images have been read, how many are missing is known; the second job shares them.
    assert in_process(*command, "category=02", "seed=7", settings=()).status == 0
    shutil.rmtree(folder / "cache" / next(p.parent.parent.name for p in Path().rglob("*.pooled")))
    ended = in_process(*command, "category=02", "seed=1,2", PLAN, settings=())
    counts = [int(n) for n in re.findall(r"(\d+) images to extract", ended.out)]
    assert counts == [len(list((root / "02").rglob("*[0-9].png"))) - counts_masks(root), 0]


def counts_masks(root):
    return len(list((root / "02" / "ground_truth").rglob("*.png")))


def test_missing_categories_are_named_with_what_runs_the_rest(incomplete):
    sweep = ("-m", "dataset=mvtec", "category=glob([b*,c*,z*])", f"dataset.root={incomplete}")
    planned = in_process(*sweep, *SMALL, PLAN)
    assert planned.status == 1
    assert statuses(planned) == ["run", "missing data", "run", "run", "missing data"]
    before = files()

    ended = in_process(*sweep, *SMALL)

    assert (ended.status, ended.out) == (1, "")
    [line] = ended.err.splitlines()
    assert line == planned.out.splitlines()[-1]
    override, _, why = line.partition(" runs the rest: ")
    assert override == "category=bottle,capsule,carpet"
    assert why.startswith("2 of 5 categories are not here, mvtec/cable, mvtec/zipper: ")
    assert files() == before  # no run, no log
    rest = in_process("-m", "dataset=mvtec", override, f"dataset.root={incomplete}", *SMALL)
    assert rest.status == 0, rest.err


IMPOSSIBLE = [
    (["dataset.root=nowhere"], "MVTec AD is not at 'nowhere': set dataset.root=PATH, or put"),
    (["n_train=1000"], "n_train must be between 1 and the 24 training images of mvtec/bottle"),
    (["n_train=3"], "dfkde needs at least 18 training images with these settings, got 3 of"),
    (["model.params.n_components=300"], "dfkde needs at least 302 training images with these"),
    (["model.params.n_components=0"], "n_components must be an integer of at least 1, got 0"),
    (["model.factory=nowhere:Model"], "model.factory must be an importable 'module:class' or"),
    (["+model.params.k=1"], "model.params.k is not a parameter of dfkde.density:DFKDE"),
    (["save_model=true"], "save_model must be false where tracking.kind is none, got true"),
    (["threshold_quantile=0.9", "n_train=19"], "threshold_quantile must be null where a tenth"),
    (["features.engine=nosuch"], "engine must be one of auto, torch, onnxruntime, openvino, "),
]


@pytest.mark.parametrize(
    ("mode", "arguments", "line"),
    # A sweep has all checks of a job.
    [
        *(("category=bottle", *one) for one in IMPOSSIBLE),
        *(("-m category=bottle,pill", *one) for one in IMPOSSIBLE[::3]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_work_stops_before_the_first_job(empty_folder, mode, arguments, line):
    settings = ("backbone=efficientnet_lite0", "dataset.official=false")
    ended = in_process(*mode.split(), *arguments, *SMALL, settings=settings)
    assert (ended.status, ended.out) == (1, "")
    [said] = ended.err.splitlines()
    assert said.startswith(line)
    assert not list(Path().rglob("job.log"))


def test_missing_weights_are_told_for_each_job(empty_folder, monkeypatch):
    monkeypatch.setattr(presence, "reachable", lambda url: False)
    monkeypatch.setenv("TORCH_HOME", str(empty_folder))
    command = ("-m", "category=bottle", "model=dfkde,knn", "backbone=resnet18", PLAN)
    ended = in_process(*command, settings=())
    assert ended.status == 1
    assert statuses(ended) == ["missing weights"] * 2
    assert ended.out.count("resnet18-f37072fd.pth") == 1


def test_a_cluster_is_planned_without_its_data_and_nothing_is_submitted(empty_folder):
    command = ("-m", "category=bottle,pill", "dataset.root=/of/the/nodes", "backbone=resnet50")
    ended = in_process(*command, "hydra/launcher=submitit_slurm", PLAN, settings=())
    assert ended.status == 0, ended.err
    assert statuses(ended) == ["run", "run"]
    wrong = in_process(*command, "hydra/launcher=submitit_slurm", "seed=-1", PLAN, settings=())
    assert (wrong.status, statuses(wrong)) == (1, ["wrong setting"] * 2)
    assert files() == []


def test_a_model_in_a_file_runs_by_its_path(folder, client, tmp_path_factory):
    """And the folder of the file is no part of its job."""
    text = "from dfkde import KNN\n\n\nclass Near(KNN):\n    pass\n"
    identities = set()
    for place in (folder, tmp_path_factory.mktemp("elsewhere")):
        (place / "near.py").write_text(text)
        model = ("model.name=near", f"model.factory={place / 'near.py'}:Near", "force=true")
        ended = in_process("dataset=btad", "category=01", "model=knn", *model, "localizer=none")
        assert ended.status == 0, ended.err
    identities = {run.data.tags["identity"] for run in runs(client)}
    assert len(identities) == 1


def test_times_are_written_as_people_say_them():
    assert (_duration(0.4), _duration(600)) == ("about 1 s", "about 10 min")


def test_a_process_leaves_no_failed_run(empty_folder):
    ended = as_process("-m", "dataset=btad", "category=01,02", "dataset.root=nowhere")
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert files() == []


def test_a_console_script_finds_modules_of_the_working_folder(empty_folder, monkeypatch):
    script = empty_folder / "bin" / "dfkde-run"
    for place, expected in ((str(script.parent), str(empty_folder)), ("/else", "/else")):
        monkeypatch.setattr(sys, "path", [place, *sys.path])
        monkeypatch.setattr(sys, "argv", [str(script), "--help"])
        with pytest.raises(SystemExit):
            main()
        assert sys.path[0] == expected


def test_a_sweep_says_which_server_it_writes_to(folder, monkeypatch):
    job = ("dataset=btad", "category=01", "localizer=none", "tracking=server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    ended = in_process(*job)
    assert ended.status == 0, ended.err
    assert ended.err == f"runs are kept in sqlite:///{folder / 'runs' / 'mlflow.db'}\n"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    ended = in_process(*job)
    assert (ended.status, ended.out) == (1, "")
    line = "tracking.uri must be an address, got '': is MLFLOW_TRACKING_URI empty?\n"
    assert ended.err == line
