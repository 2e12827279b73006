"""Which jobs a sweep has: against lists written by hand, and against Hydra job by job."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.compose import ComposeError, Sweep, sweeps_of
from harness.config import conf_dir
from tests.names import NAMES

NASTY = [
    *("driver's side", 'double"quote', "comma,comma", "back\\slash", "ends\\", "\\'", "{a:1}"),
    *(
        "[x]",
        "a=b",
        "-leading",
        "größe 日本",
        " spaces ",
        "",
        "null",
        "true",
        "007",
        "x: y",
        "!tag",
    ),
    *("glob(*)", "range(1,3)", "a b\tc", "$", "~x", "+x", "a@b", "#", "!tag", "*"),
]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(conf_dir(), tmp_path_factory.mktemp("conf") / "conf"))


def write(conf: Path, path: str, content: dict) -> None:
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    header = "# @package _global_\n" if path.startswith("experiment/") else ""
    (conf / f"{path}.yaml").write_text(header + text, encoding="utf-8")


def expand(conf: Path, params: dict, *chosen: str, **given) -> Sweep:
    """Expand an experiment with these sweeps."""
    pairs = (choice.split("=") for choice in chosen)
    defaults = [{f"override /{group}": choice} for group, choice in pairs]
    hydra = {"sweeper": {"params": {"category": "glob(*)"} | params}}
    write(conf, "experiment/new", {"defaults": defaults, "hydra": hydra, **given})
    sweep = sweeps_of(conf, ["new"])["new"]
    if isinstance(sweep, ComposeError):
        raise sweep
    return sweep


def categories(sweep: Sweep) -> list[str | None]:
    return [job.category for job in sweep.jobs]


def escaped(name: str) -> str:
    """Write a name so that OmegaConf takes it for no reference, in a file."""
    return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", name)


def of_names(conf: Path, names: list[str], **more: str) -> Sweep:
    own = {"name": "own", "title": "Own", "reader": "mvtec", "categories": [*map(escaped, names)]}
    write(conf, "dataset/own", own | more)
    return expand(conf, {}, "dataset=own")


@pytest.mark.parametrize("more", [{}, {"root": "/data/${category}/x"}], ids=["plain", "referred"])
def test_a_category_may_have_any_name(conf: Path, more: dict) -> None:
    names = [*NASTY, "${seed}", "a\\${b}c\\\\", *(n for n in NAMES if "\udcff" not in n)]
    sweep = of_names(conf, names, **more)
    assert categories(sweep) == names
    roots = [f"/data/{name}/x" if more else None for name in names]
    assert [job.dataset.root for job in sweep.jobs] == roots


def test_datasets_of_one_name_keep_their_categories_apart(conf: Path) -> None:
    for letter in "ab":
        own = [f"{letter}{number}" for number in range(8)]
        data = {"name": "mine", "title": "M", "reader": "mvtec", "root": f"/{letter}"}
        write(conf, f"dataset/{letter}", data | {"categories": own})
    sweep = expand(conf, {"dataset": "a,b"})
    found = [(job.dataset.root, job.category) for job in sweep.jobs]
    assert found == [(f"/{letter}", f"{letter}{n}") for letter in "ab" for n in range(8)]
    sweep = expand(conf, {"dataset": "a,b", "category": "b1,a2"})
    assert categories(sweep) == ["a2", "b1"]


SWEEPS = [
    ({"seed": "range(0,3)"}, [{"seed": n} for n in range(3)]),
    ({"seed": "0,1,2"}, [{"seed": n} for n in range(3)]),
    ({"seed": "sort(2,0,1)"}, [{"seed": n} for n in range(3)]),
    ({"model": "dfkde,knn"}, [{"model": m} for m in ("dfkde", "knn")]),
    ({"model": "glob(dfkde*)"}, [{"model": m} for m in ("dfkde", "dfkde_residual")]),
    ({"backbone": "resnet18,resnet50"}, [{"backbone": b} for b in ("resnet18", "resnet50")]),
    (
        {"n_train": "null,8", "model.params.n_components": "choice(4,8)"},
        [
            {"n_train": n, "model.params.n_components": c}
            for n, c in itertools.product((None, 8), (4, 8))
        ],
    ),
    ({"+model.params.novel": "1,2"}, [{"+model.params.novel": n} for n in (1, 2)]),
    ({"++model.params.novel": "1,2"}, [{"++model.params.novel": n} for n in (1, 2)]),
    (
        {"model.params.n_components": "4,8", "++model.params": "{n_components:5}"},
        [{"model.params.n_components": 5}] * 2,
    ),
    ({"features.cache": "a\\,b"}, [{"features.cache": "'a,b'"}]),
]


@pytest.mark.parametrize(("params", "expected"), SWEEPS, ids=str)
def test_the_jobs_of_a_sweep_are_those_that_hydra_composes(
    conf: Path, params: dict, expected: list[dict]
) -> None:
    chosen = ("dataset=elpv", "backbone=timm")
    sweep = expand(conf, params, *chosen, seed=3)
    with initialize_config_dir(str(conf), version_base="1.3"):
        found = [
            OmegaConf.to_object(
                compose(
                    "config",
                    [
                        *("dataset=elpv", "backbone=timm", "seed=3", f"category={category}"),
                        *(f"{k}={'null' if v is None else v}" for k, v in values.items()),
                    ],
                )
            )
            for values in expected
            for category in ("mono", "poly")
        ]
    assert list(sweep.jobs) == found


def test_declared_tables_are_those_that_hydra_composes() -> None:
    names = [path.stem for path in sorted(conf_dir().glob("experiment/*.yaml"))]
    sweeps = sweeps_of(conf_dir(), names)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for name in names:
            last = [f"{key}={values[-1]}" for key, values in sweeps[name].swept.items()]
            composed = OmegaConf.to_object(compose("config", [f"experiment={name}", *last]))
            assert sweeps[name].jobs[-1] == composed


def test_swept_keys_have_their_values_as_text(conf: Path) -> None:
    params = {"n_train": "null,8", "seed": "range(0,2)", "image_size": "64"}
    values = {"n_train": ("null", "8"), "seed": ("0", "1"), "category": ("mono", "poly")}
    assert expand(conf, params, "dataset=elpv").swept == values


def test_one_experiment_that_cannot_be_does_not_stop_the_others(conf: Path) -> None:
    write(conf, "experiment/bad", {"imag_size": 1})
    sweeps = sweeps_of(conf, ["bad", "demo"])
    assert isinstance(sweeps["bad"], ComposeError)
    assert "\n" not in str(sweeps["bad"])
    assert len(sweeps["demo"].jobs) == 2
