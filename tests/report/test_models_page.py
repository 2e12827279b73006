"""docs/models.md: each number is that of a run in docs/models.csv, and every run is there."""

from __future__ import annotations

import csv
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGE = (DOCS / "models.md").read_text(encoding="utf-8")
RUNS = list(csv.DictReader((DOCS / "models.csv").read_text(encoding="utf-8").splitlines()))


def lines(title: str) -> list[list[str]]:
    part = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    table = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def label(run: dict[str, str]) -> str:
    own_maps = run["localizer"] == "none"
    return run["model"] if own_maps else f"{run['model']} · {run['localizer']}"


def test_the_tables_are_those_of_the_kept_runs() -> None:
    shown = 0
    for title in ("bottle", "pill", "screw"):
        header, _, *body = lines(f"MVTec AD: {title}")
        expected = {
            label(run): [f"{float(run[m]):.3f}" for m in header[1:]]
            for run in RUNS
            if (run["dataset"], run["category"]) == ("mvtec", title)
        }
        assert {name: cells for name, *cells in body} == expected
        shown += len(body)
    header, _, *body = lines("ELPV")
    for category, *cells in body[:-1]:
        values = {r["model"]: r["Image AUROC"] for r in RUNS if r["category"] == category}
        assert cells == [f"{float(values[model]):.3f}" for model in header[1:]]
        shown += len(cells)
    assert shown == len(RUNS)


def ms(value: str) -> str:
    return f"{float(value):.3f}" if float(value) < 10 else f"{float(value):.0f}"


def test_the_times_are_those_of_the_kept_runs() -> None:
    runs = [run for run in RUNS if run["localizer"] in ("none", "occlusion")]
    kept = {(run["model"], f"{run['dataset']} · {run['category']}"): run for run in runs}
    header, rule, *body = lines("Milliseconds per image")
    features = "Features, ms per image"
    expected = {
        name: [ms(kept[name, place]["Model, ms per image"]) for place in header[1:]]
        for name in {run["model"] for run in runs}
    }
    shared = [ms(kept["patch_kde", place][features]) for place in header[1:]]
    expected |= {"Metric": header[1:], rule[0]: rule[1:], features: shared}
    assert {name: cells for name, *cells in body} == expected


def test_all_runs_are_of_the_published_data_and_of_the_same_weights() -> None:
    assert {run["official"] for run in RUNS} == {"true"}
    assert len({run["weights_digest"] for run in RUNS}) == 1
    by_category = {(run["category"], run["data_fingerprint"]) for run in RUNS}
    assert len(by_category) == len({run["category"] for run in RUNS})
    assert "not official" not in PAGE


def test_the_published_numbers_are_those_of_results() -> None:
    read = (DOCS.parent / "results" / "published.csv").read_text(encoding="utf-8").splitlines()
    kept = (DOCS.parent / "results" / "published_sources.csv").read_text(encoding="utf-8")
    labels = {row["source"]: row["label"] for row in csv.DictReader(kept.splitlines())}
    rows = [row for row in csv.DictReader(read) if row["metric"] == "image_auroc"]
    values = {
        (labels[row["source"]], row["category"]): row["value"]
        for row in rows
        if row["dataset"] == "mvtec"
    }
    ours = {
        (run["model"], run["category"]): f"{float(run['Image AUROC']):.3f}"
        for run in RUNS
        if run["dataset"] == "mvtec" and run["localizer"] == "none"
    }
    (_, *categories), _, *body = lines("Beside published numbers")
    for name, *cells in body:
        for category, cell in zip(categories, cells, strict=True):
            if name.startswith("`"):
                assert cell == ours[name.split("`")[1], category]
            else:
                assert cell == values[name, category]
    assert len(body) > 4
