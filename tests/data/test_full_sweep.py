"""The whole sweep over the three datasets, from their own layouts to the filled tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from harness.data.official import PUBLISHED
from harness.data.synthetic import Plan, as_published, write_synthetic
from harness.report.__main__ import main as report
from tests.sweep.conftest import in_process

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ("mvtec", "btad", "visa")
PLAN = Plan(scale=0.0, side=32)
SETTINGS = {"image_size": 32}
EVERY = {"sweeper": {"params": {"category": "glob(*)"}}}


@pytest.fixture
def scratch(tmp_path) -> Path:
    """A folder with the synthetic datasets, and the tables of a scratch README."""
    for name in DATASETS:
        write_synthetic(tmp_path / "data" / name, name, plan=PLAN)
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("experiment"))
    (tmp_path / "conf/experiment").mkdir()
    backbone = {"factory": "tests.tiny:build", "layers": ["features"]}
    for name in DATASETS:
        groups = [{"override /dataset": name}, {"override /backbone": "custom"}]
        experiment = {"defaults": groups, "backbone": backbone, "hydra": EVERY, **SETTINGS}
        path = tmp_path / f"conf/experiment/{name}_tiny.yaml"
        path.write_text("# @package _global_\n" + yaml.safe_dump(experiment))
    tables = [f"<!-- table: {name}_tiny -->\n<!-- /table -->\n" for name in DATASETS]
    (tmp_path / "README.md").write_text("\n".join(tables))
    return tmp_path


def test_thirty_jobs_fill_three_tables(scratch, make_store, monkeypatch, capsys):
    sweep = ["dataset=mvtec,btad,visa", "category=glob(*)", "backbone=custom"]
    sweep += ["backbone.factory=tests.tiny:build", "backbone.layers=[features]"]
    sweep += [f"{key}={value}" for key, value in SETTINGS.items()]
    make_store(scratch / "runs")
    monkeypatch.chdir(scratch)
    for name in DATASETS:
        monkeypatch.setitem(PUBLISHED, name, as_published(name, PLAN))
    ended = in_process("-m", *sweep, settings=())
    assert ended.status == 0, ended.out + ended.err
    assert report([]) == 0, capsys.readouterr().err
    cells = _cells((scratch / "README.md").read_text())
    categories = [category for name in DATASETS for category in PUBLISHED[name]]
    assert [line["Category"] for line in cells if "Average" not in line["Category"]] == categories
    assert len(cells) == 30 + 3
    for line in cells:
        for column in ("Image AUROC", "Image F1", "Pixel AUROC", "Pixel AUPRO"):
            assert 0 < float(line[column]) <= 1


def _cells(readme: str) -> list[dict[str, str]]:
    """Read the lines of the README's tables by the titles of their columns."""
    lines = [line.strip("| ").split(" | ") for line in readme.splitlines() if line[:1] == "|"]
    titles = lines[0]
    return [
        dict(zip(titles, line, strict=True))
        for line in lines
        if line != titles and set(line[0]) != {"-"}
    ]
