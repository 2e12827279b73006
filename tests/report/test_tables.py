"""Which tables there are, and what an experiment that no table can show costs: itself alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.report.__main__ import main
from harness.report.declaration import Cell, ReportError, read_table, read_tables
from harness.report.publish import check, publish
from tests.report.synthetic import complete


def declare(checkout: Path, name: str = "new", marker: bool = False, **params: str) -> None:
    """Add an experiment, and a marker for it."""
    hydra = {"sweeper": {"params": {"category": "glob(*)"} | params}}
    path = checkout / "conf" / "experiment" / f"{name}.yaml"
    path.write_text(f"# @package _global_\n{yaml.safe_dump({'hydra': hydra})}")
    if marker:
        with (checkout / "README.md").open("a") as readme:
            readme.write(f"\n<!-- table: {name} -->\n\nas it was\n\n<!-- /table -->\n")


@pytest.mark.parametrize(
    ("params", "seeds", "axis", "values"),
    [
        ({"seed": "range(0,5)"}, (0, 1, 2, 3, 4), "", ("",)),
        ({"seed": "0,1,2"}, (0, 1, 2), "", ("",)),
        ({"seed": "7"}, (7,), "", ("",)),
        ({"n_train": "range(4,8)"}, (42,), "n_train", ("4", "5", "6", "7")),
        ({"n_train": "null,8", "seed": "choice(2,1)"}, (2, 1), "n_train", ("null", "8")),
        ({"model.params.n_components": "4,8"}, (42,), "model.n_components", ("4", "8")),
        ({"image_size": "128"}, (42,), "", ("",)),
        ({"backbone": "wide"}, (42,), "", ("",)),
    ],
    ids=str,
)
def test_a_table_has_the_jobs_of_its_sweep(
    checkout: Path, params: dict[str, str], seeds: Any, axis: str, values: Any
) -> None:
    declare(checkout, **params)
    table = read_table(checkout / "conf", "new")
    assert (table.seeds, table.axis, table.values) == (seeds, axis, values)
    assert len(table.jobs) == len(table.cells()) == 3 * len(seeds) * len(values)
    jobs = [job.config for job in table.jobs]
    assert {Cell(str(job.category), job.seed, "") for job in jobs} == {
        cell._replace(value="") for cell in table.cells()
    }
    assert table.expected("image_size") == int(params.get("image_size", 256))
    assert table.choice("backbone") == params.get("backbone", "tiny")


REFUSED = [
    ({"model": "dfkde,other"}, "new.yaml sweeps model (dfkde, other); a table shows one dataset"),
    ({"backbone": "tiny,wide"}, "new.yaml sweeps backbone (tiny, wide); a table shows one dataset"),
    ({"dataset": "glob(*)"}, "new.yaml sweeps dataset (cells, parts); a table shows one dataset"),
    ({"features": "default,default"}, "new.yaml sweeps features (default, default); a table shows"),
    ({"backbone.name": "a,b"}, "new.yaml sweeps backbone.name (a, b); a table shows one dataset"),
    ({"image_size": "1,2", "n_train": "3,4"}, "new.yaml sweeps image_size, n_train; a table shows"),
    ({"seed": "one,two"}, "new.yaml: Error merging override seed=one Value 'one' of type 'str'"),
    (
        {"seed": "interval(0,1)"},
        "new.yaml: seed=interval(0,1) must be a list of values, or a",
    ),
    ({"category": "null"}, "new.yaml: category must be given. Choose from: bolt, cap, 01"),
]


@pytest.mark.parametrize(("params", "problem"), REFUSED, ids=str)
def test_an_experiment_that_no_table_shows_is_named(
    published: Path, params: dict[str, str], problem: str
) -> None:
    other = published / "conf" / "model" / "other.yaml"
    other.write_text("name: other\nfactory: nowhere:other\n")
    declare(published, **params)
    with pytest.raises(ReportError) as refused:
        read_table(published / "conf", "new")
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)
    assert check(published) == "", "a sweep need not be a table"


def test_a_marker_of_what_no_table_shows_is_refused_and_the_others_are_made(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(checkout, backbone="tiny,wide", marker=True)
    _, refusals = publish(checkout, complete())
    assert refusals == [read_tables(checkout / "conf").refused["new"]]
    text = (checkout / "README.md").read_text()
    assert "<!-- table: new -->\n\nas it was\n\n<!-- /table -->" in text
    assert "| **Average** | 0." in text
    assert main(["--root", str(checkout), "--check"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == f"error: {refusals[0]}"
    (checkout / "README.md").write_text(text.replace("| **Average** | 0.", "| **Average** | 1."))
    assert "+| **Average** | 0." in check(checkout), "the others are checked all the same"


def test_only_refuses_what_no_table_shows(checkout: Path) -> None:
    declare(checkout, model="glob(*)", n_train="1,2", seed="1,2")
    (checkout / "conf" / "model" / "other.yaml").write_text("name: other\nfactory: nowhere:other\n")
    _, refusals = publish(checkout, complete(), only=["new", "parts_tiny"])
    assert refusals == [
        "conf/experiment/new.yaml sweeps model, n_train; a table shows one setting at most"
    ]
    assert "| **Average** | 0." in (checkout / "README.md").read_text()
