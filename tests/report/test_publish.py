from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.report.__main__ import main
from harness.report.publish import check, publish
from harness.report.results import read_results
from harness.report.table import ReportError
from tests.report.synthetic import SETTINGS, failed, metrics, record, run, scores

NO_MASKS = {"pixel_auroc": "no masks", "pixel_aupro": "no masks"}


def _image_metrics(seed: int) -> dict[str, float]:
    return {k: v for k, v in metrics(scores(seed)).items() if k.startswith("image")}


def _complete() -> list:
    return [run(f"r{i}", record(category, i)) for i, category in enumerate(("bolt", "cap", "01"))]


def _lines(checkout: Path) -> list[str]:
    return (checkout / "README.md").read_text().splitlines()


def _row(checkout: Path, start: str) -> str:
    return next(line for line in _lines(checkout) if line.startswith(f"| {start}"))


def test_complete_table_has_its_rows_in_declared_order_and_an_average(checkout: Path) -> None:
    publish(checkout, reversed(_complete()))
    rows = [
        line.split(" | ")[0]
        for line in _lines(checkout)
        if line.startswith("| ") and "---" not in line
    ][:5]
    assert rows == ["| Category", "| bolt", "| cap", "| 01", "| **Average**"]
    values = [metrics(scores(i))["image_auroc"] for i in range(3)]
    assert f"| **Average** | {sum(values) / 3:.3f} |" in _row(checkout, "**Average**")
    assert check(checkout) == ""


def test_absent_and_failed_cells_leave_the_average_out(checkout: Path) -> None:
    publish(checkout, [_complete()[0], failed("x", "cap", "mask 003 is\n missing")])
    assert _row(checkout, "cap") == "| cap | failed | failed | failed | failed |"
    assert _row(checkout, "01") == "| 01 | – | – | – | – |"
    assert _row(checkout, "**Average**").count("– (1/3)") == 4
    row = read_results(checkout / "results", "parts_tiny").rows[1]
    assert (row.status, row.error) == ("failed", "mask 003 is missing")


def test_floats_and_categories_survive_the_file(checkout: Path) -> None:
    runs = _complete()
    publish(checkout, runs)
    held = read_results(checkout / "results", "parts_tiny")
    assert [row.category for row in held.rows] == ["bolt", "cap", "01"]
    assert [row.metric for row in held.rows] == [run.record.metrics for run in runs]
    assert held.scores == {run.record.category: run.record.scores for run in runs}


def test_newest_finished_run_wins_and_the_others_are_told(checkout: Path) -> None:
    old = run("old", record("bolt", 1), started="2025-01-01T00:00:00Z")
    new = run("new", record("bolt", 2), started="2025-03-01T00:00:00Z")
    late = failed("late", "bolt", "no memory", started="2025-04-01T00:00:00Z")
    notes = publish(checkout, [new, late, old])
    assert read_results(checkout / "results", "parts_tiny").rows[0].run_id == "new"
    assert notes == ["parts_tiny: bolt has 2 finished runs, the newest is shown: new"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 0},
        {"backbone": "other"},
        {"settings": SETTINGS | {"image_size": "255"}},
        {"settings": SETTINGS | {"model.n_components": "8"}},
        {"settings": SETTINGS | {"backbone.mean": "0.5,0.5"}},
        {"settings": SETTINGS | {"undeclared": "1"}},
    ],
)
def test_a_run_with_other_settings_stays_out(checkout: Path, change: dict) -> None:
    publish(checkout, [run("a", record("bolt", **change))])
    assert _row(checkout, "bolt") == "| bolt | – | – | – | – |"


def test_settings_are_compared_by_value(checkout: Path) -> None:
    publish(checkout, [run("a", record("bolt", settings=SETTINGS | {"backbone.mean": ".5,.250"}))])
    assert _row(checkout, "bolt").count("–") == 0


def test_an_experiment_overrides_the_headline_settings(checkout: Path) -> None:
    settings = SETTINGS | {"image_size": "128", "model.n_components": "8"}
    cells = record(
        "mono", dataset="cells", settings=settings, metrics=_image_metrics(1), undefined=NO_MASKS
    )
    publish(checkout, [run("a", cells)])
    assert _row(checkout, "mono").count("|") == 4, "the pixel columns are left out"
    assert "128 px" in (checkout / "README.md").read_text()


def test_unofficial_data_are_refused_with_the_reason(checkout: Path) -> None:
    notes = publish(checkout, [run("a", record("bolt", official=False))])
    assert _row(checkout, "bolt") == "| bolt | – | – | – | – |"
    assert "run a of bolt is refused, its data are not the published dataset" in notes[0]


def test_two_sets_of_weights_in_one_table_are_refused(checkout: Path) -> None:
    runs = [run("a", record("bolt")), run("b", record("cap", weights_digest="cd" * 32))]
    with pytest.raises(ReportError, match=r"mixes 2 sets .* abababababab \(bolt\); cdcdcd"):
        publish(checkout, runs)
    assert not (checkout / "results").exists()


def test_two_commits_in_one_table_are_both_named(checkout: Path) -> None:
    runs = [run("a", record("bolt")), run("b", record("cap"), commit="d" * 40, dirty=True)]
    publish(checkout, runs)
    text = (checkout / "README.md").read_text()
    assert "commits `c0ffeec0ff` (bolt), `dddddddddd` with uncommitted changes (cap)" in text


def test_only_the_named_tables_are_made_anew(checkout: Path) -> None:
    publish(checkout, _complete())
    before = _lines(checkout)
    publish(checkout, [], only=["cells_small"])
    assert _lines(checkout) == before
    notes = publish(checkout, [])
    assert notes[0] == "parts_tiny: bolt is no longer shown, its run r0 is not in the store"


def test_check_finds_one_edited_digit_and_names_the_command(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(checkout, _complete())
    readme = checkout / "README.md"
    shown = _row(checkout, "bolt")
    digit = next(c for c in reversed(shown) if c.isdigit())
    edited = shown[::-1].replace(digit, str((int(digit) + 1) % 10), 1)[::-1]
    readme.write_text(readme.read_text().replace(shown, edited))
    assert main(["--root", str(checkout), "--check"]) == 1
    captured = capsys.readouterr()
    assert f"-{edited}" in captured.out.splitlines()
    assert f"+{shown}" in captured.out.splitlines()
    assert "python -m harness.report" in captured.err


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("<!-- table: parts_tiny -->", "", "no marker for parts_tiny"),
        ("<!-- table: cells_small -->", "<!-- table: parts_tiny -->", "more than one marker"),
        ("<!-- table: cells_small -->", "<!-- table: cels -->", "no marker for cells_small"),
        ("<!-- /table -->\n\nText", "Text", "parts_tiny is not closed"),
        ("Text between.", "<!-- /table -->", "closes no table"),
    ],
)
def test_check_finds_wrong_markers(checkout: Path, old: str, new: str, problem: str) -> None:
    publish(checkout, _complete())
    readme = checkout / "README.md"
    text = readme.read_text()
    assert old in text
    readme.write_text(text.replace(old, new))
    with pytest.raises(ReportError, match=problem):
        check(checkout)


def test_check_finds_results_that_do_not_fit_the_code(checkout: Path) -> None:
    publish(checkout, _complete())
    path = checkout / "results" / "parts_tiny.csv"
    text = path.read_text()
    path.write_text(text.replace("\n1,parts,cap", "\n0,parts,cap"))
    with pytest.raises(ReportError, match=r"parts_tiny.csv:3 has schema 0, this code has 1"):
        check(checkout)
    path.write_text(text.replace("schema,dataset", "scheme,dataset"))
    with pytest.raises(ReportError, match="has not the columns"):
        check(checkout)
    path.unlink()
    with pytest.raises(ReportError, match=r"parts_tiny.csv is missing"):
        check(checkout)


def test_check_finds_an_edited_score(checkout: Path) -> None:
    publish(checkout, _complete())
    path = checkout / "results" / "scores" / "parts_tiny.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1] + "1"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ReportError, match="the scores of bolt are not those of its run"):
        check(checkout)


def test_check_needs_neither_mlflow_nor_torch_nor_numpy(checkout: Path) -> None:
    publish(checkout, _complete())
    program = (
        "import sys; from harness.report.__main__ import main;"
        f"status = main(['--root', {str(checkout)!r}, '--check']);"
        "heavy = {'mlflow', 'torch', 'numpy', 'pandas', 'hydra', 'omegaconf'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
