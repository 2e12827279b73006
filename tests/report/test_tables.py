"""Which tables there are, and what an experiment that no table can show costs: itself alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.compose import Sweep, sweeps_of
from harness.report.__main__ import main
from harness.report.declaration import Cell, ReportError, expected, read_table, read_tables
from harness.report.publish import check, publish
from tests.report.synthetic import SETTINGS, complete, metrics, record, run, scores


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
    assert (table.seeds, table.axis, tuple(table.configs)) == (seeds, axis, values)
    composed = sweeps_of(checkout / "conf", ["new"])["new"]
    assert isinstance(composed, Sweep)
    jobs = list(composed.jobs)
    assert len(jobs) == len(table.cells()) == 3 * len(seeds) * len(values)
    assert {Cell(str(job.category), job.seed, "") for job in jobs} == {
        cell._replace(value="") for cell in table.cells()
    }
    assert expected(table.config, "image_size") == int(params.get("image_size", 256))
    assert table.choice("backbone") == params.get("backbone", "tiny")


REFUSED = [
    ({"dataset": "glob(*)"}, "new.yaml sweeps dataset (cells, parts); a table shows one dataset"),
    (
        {"features": "default,default"},
        "new.yaml sweeps features (default, default); its values",
    ),
    ({"model": "dfkde,alias"}, "new.yaml sweeps model (dfkde, alias); its values must"),
    ({"model": "dfkde,other", "backbone": "tiny,wide"}, "new.yaml sweeps backbone, model; a table"),
    ({"image_size": "1,2", "n_train": "3,4"}, "new.yaml sweeps image_size, n_train; a table shows"),
    ({"seed": "one,two"}, "new.yaml: seed must be an integer, got 'one'"),
    (
        {"seed": "interval(0,1)"},
        "new.yaml: seed=interval(0,1) must be a list of values, or a range",
    ),
    ({"category": "null"}, "new.yaml: category must be given. Choose from: bolt, cap, 01"),
]


@pytest.mark.parametrize(("params", "problem"), REFUSED, ids=str)
def test_an_experiment_that_no_table_shows_is_named(
    published: Path, params: dict[str, str], problem: str
) -> None:
    for file, name in (("other", "other"), ("alias", "dfkde")):
        model = published / "conf" / "model" / f"{file}.yaml"
        model.write_text(f"name: {name}\nfactory: nowhere:{file}\n")
    declare(published, **params)
    with pytest.raises(ReportError) as refused:
        read_table(published / "conf", "new")
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_sweep_need_not_be_a_table(published: Path) -> None:
    declare(published, **REFUSED[0][0])
    assert check(published) == ""
    declare(published, seed="interval(0,1)")
    assert check(published) == ""


def test_a_marker_of_what_no_table_shows_is_refused_and_the_others_are_made(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(checkout, dataset="glob(*)", marker=True)
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


KNN = {"model": "knn", "model_factory": "dfkde.baselines:KNN"}
WIDE = {"backbone": "wide", "weights_digest": "cd" * 32}


def shown(checkout: Path) -> list[list[str]]:
    """The cells of the table of the experiment `new`, and its caption."""
    page = (checkout / "README.md").read_text().partition("<!-- table: new -->\n\n")[2]
    lines = page.partition("\n\n<!-- /table -->")[0].split("\n")
    return [line.strip("| ").split(" | ") for line in lines]


def auroc(*draws: int) -> float:
    return sum(metrics(scores(draw))["image_auroc"] for draw in draws) / len(draws)


@pytest.mark.parametrize(
    ("params", "other", "titles", "text"),
    [
        (
            {"model": "dfkde,knn"},
            KNN,
            ["dfkde", "knn"],
            "DFKDE, KNN with `tiny` (weights `abababab",
        ),
        (
            {"backbone": "wide,tiny"},
            WIDE,
            ["wide", "tiny"],
            "with `wide` (weights `cdcdcdcdcdcd`), `tiny` (weights `abababababab`), images of 256",
        ),
    ],
    ids=["model", "backbone"],
)
def test_what_is_swept_becomes_columns(
    checkout: Path, params: dict[str, str], other: dict[str, Any], titles: list[str], text: str
) -> None:
    knn = checkout / "conf" / "model" / "knn.yaml"
    knn.write_text("name: knn\nfactory: dfkde.baselines:KNN\nparams: {n_components: 16}\n")
    declare(checkout, category="bolt,cap", marker=True, **params)
    first = [run("a", record("bolt", 1)), run("b", record("cap", 2))]
    others = [run("c", record("bolt", 3, **other)), run("d", record("cap", 4, **other))]
    assert publish(checkout, [*first, *others[:1]], only=["new"]) == ([], [])
    header, _, bolt, cap, average, _, caption = shown(checkout)
    order = {"dfkde": 1, "tiny": 1, "knn": 3, "wide": 3}
    assert header == ["Category", *titles]
    assert bolt == ["bolt", *(f"{auroc(order[title]):.3f}" for title in titles)]
    gap = titles.index("knn" if "knn" in titles else "wide")
    assert (cap[1 + gap], average[1 + gap]) == ("–", "– (1/2)")
    assert average[2 - gap] == f"{auroc(1, 2):.3f}"
    assert text in " | ".join(caption)
    before = (checkout / "results" / "new.csv").read_text()
    assert publish(checkout, others[1:], only=["new"]) == ([], []), "other rows are kept"
    assert set(before.splitlines()) < set(
        (checkout / "results" / "new.csv").read_text().splitlines()
    )
    assert shown(checkout)[4][1 + gap] == f"{auroc(3, 4):.3f}"
    publish(checkout, [])
    assert check(checkout) == ""
    foreign = record("bolt", 5, **(other | {"model_factory": "nowhere:Own"}))
    [note], _ = publish(checkout, [run("f", foreign, started="2026")], only=["new"])
    assert "run f of bolt is refused, its model was built by nowhere:Own" in note


def test_seeds_of_a_swept_model_give_a_mean_and_a_deviation(checkout: Path) -> None:
    knn = checkout / "conf" / "model" / "knn.yaml"
    knn.write_text("name: knn\nfactory: dfkde.baselines:KNN\nparams: {n_components: 16}\n")
    declare(checkout, model="dfkde,knn", seed="1,2", category="bolt", marker=True)
    runs = [
        run(f"{seed}{name}", record("bolt", draw, seed=seed, **more))
        for seed, name, draw, more in (
            (1, "", 1, {}),
            (2, "", 2, {}),
            (1, "k", 3, KNN),
            (2, "k", 3, KNN),
        )
    ]
    publish(checkout, runs, only=["new"])
    deviation = abs(auroc(1) - auroc(2)) / 2**0.5
    cells = [f"{auroc(1, 2):.3f} ± {deviation:.3f}", f"{auroc(3):.3f} (deterministic)"]
    assert shown(checkout)[2:4] == [["bolt", *cells], ["**Average**", *cells]]


def test_a_swept_localizer_shows_what_it_changes(checkout: Path) -> None:
    declare(checkout, localizer="occlusion,none", category="bolt", marker=True)
    values = {k: v for k, v in metrics(scores(1)).items() if k.startswith("image")}
    settings = SETTINGS | {"localizer": "none"}
    bare = record("bolt", 1, settings=settings, metrics=values, undefined={"pixel_auroc": "no map"})
    publish(checkout, [run("a", record("bolt", 1)), run("b", bare)], only=["new"])
    pixel = f"{metrics(scores(1))['pixel_auroc']:.3f}"
    header, _, bolt, average, _, caption = shown(checkout)
    assert header == ["Category", "localizer = occlusion", "localizer = none"]
    assert (bolt, average) == (["bolt", pixel, "n/a"], ["**Average**", pixel, "– (0/1)"])
    assert "`. Pixel AUROC." in " | ".join(caption)


def test_an_experiment_may_sweep_models_on_pooled_features_and_on_maps(checkout: Path) -> None:
    path = checkout / "conf" / "model" / "on_maps.yaml"
    layers = {"tiny": ["a", "b"]}
    path.write_text(yaml.safe_dump({"name": "on_maps", "factory": "d:M", "layers": layers}))
    declare(checkout, model="dfkde,on_maps", localizer="null", category="bolt", marker=True)
    settings = SETTINGS | {"localizer": "none", "model.layers": "a,b"}
    del settings["model.n_components"]
    own = record("bolt", 2, model="on_maps", model_factory="d:M", settings=settings)
    other = record("bolt", 3, model="on_maps", model_factory="d:M", settings=settings | {
        "model.layers": "a"})  # fmt: skip
    later = {"started": "2025-01-03T00:00:00Z"}
    publish(checkout, [run("a", record("bolt", 1)), run("b", own), run("c", other, **later)],
            only=["new"])  # fmt: skip
    assert shown(checkout)[2] == ["bolt", f"{auroc(1):.3f}", f"{auroc(2):.3f}"]


def test_a_run_that_does_not_tell_what_is_swept_stays_out(checkout: Path) -> None:
    declare(checkout, n_train="4,8", category="bolt", marker=True)
    settings = {key: value for key, value in SETTINGS.items() if key != "n_train"}
    assert publish(checkout, [run("a", record("bolt", settings=settings))], only=["new"]) == (
        [],
        [],
    )
    assert shown(checkout)[2] == ["bolt", "–", "–"]
