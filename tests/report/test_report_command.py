from __future__ import annotations

from pathlib import Path

import pytest

from harness.report.__main__ import main


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, "one line"
    return captured.err


def test_latex_prints_the_named_tables(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(published), "latex", "parts_tiny", "cells_small"]) == 0
    text = capsys.readouterr().out
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert r"bolt & 0.775 & 0.575 to 0.908" in text


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["latex", "part"], "no table 'part'; there are cells_small, parts_few, parts_tiny"),
        (["compare", "parts_tiny"], "compare takes `published` or at least two tables, got 1"),
        (["compare", "published"], "published.csv is missing"),
    ],
)
def test_a_wrong_command_is_answered_in_one_line(
    published: Path, capsys: pytest.CaptureFixture[str], command: list[str], problem: str
) -> None:
    assert problem in _error(["--root", str(published), *command], capsys)


def test_a_folder_that_is_no_checkout_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = _error(["--root", str(tmp_path), "latex", "demo"], capsys)
    assert f"no experiment in {tmp_path}" in error


def test_an_unknown_table_to_make_anew_is_named(published: Path) -> None:
    from harness.report.publish import publish
    from harness.report.table import ReportError

    with pytest.raises(ReportError, match="no table demo; there are cells_small, parts_few"):
        publish(published, [], only=["demo"])
