from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.record import SCHEMA_VERSION
from harness.report.__main__ import main
from harness.report.declaration import ReportError
from harness.report.publish import check, publish
from harness.report.results import read_results, read_rows
from tests.report.synthetic import (
    complete,
    failed,
    record,
    run,
)

ABSENT = "| {} | – | – | – | – | – | – |"


def _lines(checkout: Path) -> list[str]:
    return (checkout / "README.md").read_text().splitlines()


def _row(checkout: Path, start: str) -> str:
    return next(line for line in _lines(checkout) if line.startswith(f"| {start}"))


def test_the_order_of_the_runs_changes_nothing(checkout: Path, published: Path) -> None:
    publish(checkout, reversed(complete()))
    assert _lines(checkout) == _lines(published)


def test_the_average_is_over_all_categories(published: Path) -> None:
    values = [run.record.metrics["image_auroc"] for run in complete()]
    assert f"| **Average** | {sum(values) / 3:.3f} |" in _row(published, "**Average**")
    assert check(published) == ""


def test_absent_and_failed_cells_leave_the_average_out(checkout: Path) -> None:
    publish(checkout, [complete()[0], failed("x", "cap", "mask 003 is\n missing")])
    assert _row(checkout, "cap") == "| cap | failed | – | failed | – | failed | failed |"
    assert _row(checkout, "01") == ABSENT.format("01")
    assert _row(checkout, "**Average**").count("– (1/3)") == 4
    row = read_results(checkout / "results", "parts_tiny").rows[1]
    assert (row.status, row.error) == ("failed", "mask 003 is missing")


def test_floats_and_categories_survive_the_file(checkout: Path) -> None:
    runs = complete()
    publish(checkout, runs)
    held = read_results(checkout / "results", "parts_tiny")
    assert [row.category for row in held.rows] == ["bolt", "cap", "01"]
    assert [row.metrics for row in held.rows] == [run.record.metrics for run in runs]
    assert held.scores == {run.record.category: run.record.scores for run in runs}


def test_two_sets_of_weights_in_one_table_are_refused(published: Path) -> None:
    before = _lines(published)
    runs = [run("s", record("bolt")), run("t", record("cap", weights_digest="cd" * 32))]
    _, [refusal] = publish(published, runs)
    assert (
        "mixes 2 sets of weights of tiny: abababababab (bolt, published bolt, published cap,"
        " published 01); cdcdcdcdcdcd (cap)" in refusal
    )
    assert "--replace parts_tiny" in refusal
    assert _lines(published) == before, "the table keeps the results it had"


def test_two_commits_in_one_table_are_both_named(checkout: Path) -> None:
    runs = [run("a", record("bolt")), run("b", record("cap"), commit="d" * 40, dirty=True)]
    publish(checkout, runs)
    text = (checkout / "README.md").read_text()
    assert "commits `c0ffeec0ff` (bolt), `dddddddddd` with uncommitted changes (cap)" in text


def test_only_the_named_tables_are_made_again(published: Path) -> None:
    before = _lines(published)
    publish(published, [], only=["cells_small"])
    assert _lines(published) == before


def test_check_finds_one_edited_digit_and_names_the_command(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = published / "README.md"
    shown = _row(published, "bolt")
    digit = next(c for c in reversed(shown) if c.isdigit())
    edited = shown[::-1].replace(digit, str((int(digit) + 1) % 10), 1)[::-1]
    readme.write_text(readme.read_text().replace(shown, edited))
    assert main(["--root", str(published), "--check"]) == 1
    captured = capsys.readouterr()
    assert f"-{edited}" in captured.out.splitlines()
    assert f"+{shown}" in captured.out.splitlines()
    assert "python -m harness.report" in captured.err


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("<!-- table: parts_tiny -->", "", "README.md has a <!-- /table --> that closes no table"),
        ("<!-- table: cells_small -->", "<!-- table: parts_tiny -->", "more than one marker for"),
        (
            "<!-- table: cells_small -->",
            "<!-- table: cels -->",
            "marker of table cels; there are cells_small, ",
        ),
        (
            "<!-- table: cells_small -->",
            "<!-- table: parts_few -->",
            "README.md and docs/results.md: more than one marker for table parts_few",
        ),
        (
            "Text between.",
            "<!-- table: x -->\n<!-- /table -->",
            "marker of table x; there are cells_small, ",
        ),
        (
            "<!-- /table -->\n\nText",
            "Text",
            "README.md: the marker of table parts_tiny is not closed",
        ),
        ("Text between.", "<!-- /table -->", "closes no table"),
        (
            "<!-- results: cells -->",
            "<!-- results: cels -->",
            "marker of results cels; there are cells, parts",
        ),
        ("<!-- results: cells -->", "<!-- results: parts -->", "more than one marker for results"),
        ("<!-- /results -->\n\n<!-- res", "<!-- res", "the marker of results parts is not closed"),
        ("<!-- status: all -->", "<!-- status: parts -->", "marker of status parts; there are all"),
    ],
)
def test_check_finds_wrong_markers(published: Path, old: str, new: str, problem: str) -> None:
    readme = published / "README.md"
    text = readme.read_text()
    assert old in text
    readme.write_text(text.replace(old, new))
    with pytest.raises(ReportError, match=problem):
        check(published)


def test_check_finds_results_that_do_not_fit_the_code(published: Path) -> None:
    path = published / "results" / "parts_tiny.csv"
    text = path.read_text()
    path.write_text(text.replace(f"\n{SCHEMA_VERSION},parts,cap", "\n0,parts,cap"))
    with pytest.raises(ReportError, match=r"parts_tiny.csv:3 has schema 0, this code reads \d"):
        check(published)
    path.write_text(text.replace("schema,dataset", "scheme,dataset"))
    with pytest.raises(ReportError, match="does not have the columns"):
        check(published)
    path.unlink()
    with pytest.raises(ReportError, match=r"parts_tiny.csv is missing"):
        check(published)


def test_rows_of_schema_2_are_read_without_their_factories(published: Path) -> None:
    """Published rows are never lost: the columns that came with schema 3 are empty."""
    path = published / "results" / "parts_tiny.csv"
    held = read_rows(path)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    old = [name for name in lines[0] if name not in ("model_factory", "backbone_factory")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, old, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**line, "schema": "2"} for line in lines)
    unknown = {"schema": 2, "model_factory": "", "backbone_factory": ""}
    assert read_rows(path) == tuple(replace(row, **unknown) for row in held)
    assert check(published) == ""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            r",1,3\.",
            ",1,-3.",
            r"bolt of run r-bolt: its image_auroc is 0\.775, and 0\.\d+ by its scores",
        ),
        (r"(bolt.*,1,3\.\d+)", r"\g<1>5", "bolt of run r-bolt: its digest is of other scores"),
        ("01,", "10,", "parts/01 of run r-01: its n_test_normal is 12, and 0 by its scores"),
        ("\n01.*", "", "parts/01 of run r-01: its n_test_normal is 12, and 0 by its scores"),
    ],
    ids=["other metrics", "same metrics", "of no row", "missing"],
)
def test_check_finds_scores_that_are_not_those_of_their_rows(
    published: Path, old: str, new: str, problem: str
) -> None:
    path = published / "results" / "scores" / "parts_tiny.csv"
    path.write_text(re.sub(old, new, path.read_text()))
    with pytest.raises(ReportError, match=f"results/scores/parts_tiny.csv.*{problem}"):
        check(published)


def test_check_needs_neither_mlflow_nor_torch(published: Path) -> None:
    program = (
        "import sys; from harness.report.__main__ import main;"
        f"status = main(['--root', {str(published)!r}, '--check']);"
        "heavy = {'mlflow', 'torch', 'pandas', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_of_this_project_agrees_with_its_results() -> None:
    assert check(Path(__file__).parents[2]) == ""
