from __future__ import annotations

import os
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
        (["html", "--output", "/dev/null/page.html"], "/dev/null"),
    ],
)
def test_a_wrong_command_is_answered_in_one_line(
    published: Path, capsys: pytest.CaptureFixture[str], command: list[str], problem: str
) -> None:
    assert problem in _error(["--root", str(published), *command], capsys)


def test_a_folder_that_is_no_checkout_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says how to make a page of runs from there."""
    for command in (["latex", "demo"], ["html"]):
        error = _error(["--root", str(tmp_path), *command], capsys)
        assert f"no experiment in {tmp_path}" in error
        assert "`python -m harness.report show format=html > PAGE` works anywhere" in error


def test_an_unknown_table_to_make_again_is_named(published: Path) -> None:
    from harness.report.declaration import ReportError
    from harness.report.publish import publish

    with pytest.raises(ReportError, match="no table demo; there are cells_small, parts_few"):
        publish(published, [], only=["demo"])


FILES = (
    "README.md",
    "results/parts_tiny.csv",
    "results/averages.csv",
    "results/environment.json",
    "results/scores/parts_tiny.csv",
)
DECLARATION = "conf/experiment/parts_tiny.yaml"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", [["--check"], ["html", "--output", "page.html"]])
def test_a_pipe_is_not_waited_for(
    published: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    command: list[str],
) -> None:
    monkeypatch.chdir(published)
    (published / name).unlink()
    os.mkfifo(published / name)
    if name == "README.md" and command[0] == "html":  # which does not read it
        assert main(command) == 0
        return
    assert main(command) == 1
    assert f"{name} is not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["README.md", "results/scores/parts_tiny.csv"])
def test_a_pipe_is_not_written_to(checkout: Path, name: str) -> None:
    from harness.report.declaration import ReportError
    from harness.report.publish import publish
    from tests.report.synthetic import complete

    path = checkout / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if name == "README.md":
        with pytest.raises(ReportError, match=r"README.md is not a regular file"):
            publish(checkout, complete())
    else:
        publish(checkout, complete())
        assert path.is_file()


DAMAGES = {"no text": b"\xff\xfe", "zeros": bytes(100), "a cell more": None, "empty": b""}


@pytest.mark.parametrize(
    ("name", "damage"),
    # An experiment without a line is one of defaults.
    [
        (name, damage)
        for name in (*FILES[1:], DECLARATION)
        for damage in DAMAGES
        if damage != "empty" or name.startswith("results")
    ],
)
def test_a_damaged_file_is_named_in_a_line(
    published: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    path, content = published / name, DAMAGES[damage]
    path.write_bytes(path.read_bytes() + b"a,b\n" if content is None else content)
    assert main(["--root", str(published), "--check"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert Path(name).name in captured.err


@pytest.mark.parametrize("content", ["source\n1", "dataset,category,metric,value,source\na,b,c,d"])
def test_damaged_published_numbers_are_named_in_a_line(
    published: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (published / "results/published.csv").write_text(content)
    error = _error(["--root", str(published), "compare", "published"], capsys)
    assert "results/published.csv does not have the columns source, dataset, category" in error


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("conf/config.yaml", "seed:", "sed:", "Key 'sed' not in 'Config'"),
        ("conf/config.yaml", "features:", "feature:", "Could not find 'feature/default'"),
        ("conf/config.yaml", "image_size:", "size:", "Key 'size' not in 'Config'"),
        ("conf/config.yaml", "localizer:", "locale:", "Key 'locale' not in 'Config'"),
        ("conf/dataset/parts.yaml", "title:", "titel:", "Key 'titel' not in 'DatasetConfig'"),
        ("conf/model/dfkde.yaml", "name:", "nam:", "Key 'nam' not in 'ModelConfig'"),
        ("conf/backbone/tiny.yaml", "layers:", "layer:", "Key 'layer' not in 'BackboneConfig'"),
        (DECLARATION, "sweeper:", "sweeper: 1 #", "expected <block end>, but found "),
    ],
)
def test_a_declaration_that_is_none_is_named_in_a_line(
    published: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, problem: str
) -> None:
    text = (published / name).read_text()
    assert old in text
    (published / name).write_text(text.replace(old, new))
    error = _error(["--root", str(published), "latex", "parts_tiny"], capsys)
    assert error.startswith(f"error: {DECLARATION}: ")
    assert problem in error


def test_scores_that_are_not_finite_are_refused(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published / "results/scores/parts_tiny.csv"
    *lines, last = path.read_text().splitlines()
    path.write_text("\n".join([*lines, f"{last.rpartition(',')[0]},inf\n"]))
    error = _error(["--root", str(published), "html"], capsys)
    where = f"parts_tiny.csv:{len(lines) + 1} is not a line of scores"
    assert f"{where} (ValueError: a score must be finite, got 'inf')" in error
