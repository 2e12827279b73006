"""Text from outside does nothing where it is shown: here on a terminal, in a log, in a cell."""

from __future__ import annotations

import csv
import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.features import __main__ as cache_module
from harness.features.__main__ import main
from harness.features.feature_cache import Section
from harness.record import Outcome
from harness.sweep.progress import Progress, summary
from harness.sweep.task import log_file
from harness.system.terminal import alike, csv_line, from_cell, is_formula, one_line, shown, to_cell
from tests.names import NAMES

ANY_TEXT = st.text(st.characters())


def seen(text):
    """Assert that a terminal gets lines of printable characters; return them."""
    lines = text.split("\n")
    assert all(line.isprintable() for line in lines)
    text.encode()
    return lines


@given(ANY_TEXT)
def test_what_is_shown_is_one_printable_line(text):
    written = shown(text)
    assert written.isprintable()
    assert shown(written) == written
    if text.isprintable():
        assert written == text
    elif "\\" not in text:
        assert written.encode("latin-1", "backslashreplace").decode("unicode_escape") == text


@pytest.mark.parametrize(
    ("name", "other"),
    [("\xfc", "u\u0308"), ("\ufb01n", "fin"), ("K", "\u212a"), ("A1", "A\uff11")],
)
def test_names_that_look_the_same_are_pointed_out(name, other):
    for one, two in ((name, other), (other, name)):
        assert alike(one, ["x", one, two]) == f" (which is {one!a}, and not {two!a})"
        assert alike(one, [one]) == ""


@pytest.mark.parametrize(
    ("name", "other"), [("ab", "ac"), ("\xfc", "x"), ("日本", "東京"), ("\u0430", "a")]
)
def test_names_that_look_different_are_not_explained(name, other):
    assert alike(name, [other]) == alike(other, [name]) == ""


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_shows_names_and_reasons_as_they_are(name):
    outcomes = [
        Outcome(name, "failed", reason=one_line(ValueError(name))),
        Outcome("b", "skipped", reason=name, identity="0" * 64),
    ]
    lines = seen(summary(outcomes))
    [row] = [line for line in lines if "0.0" in line and "failed" in line]
    assert f"│ {shown(name)}" in row
    assert len(lines) == 4 + 2 + 2  # the table's frame and head, its rows, the reasons


@pytest.mark.parametrize("name", NAMES)
def test_progress_shows_names_as_they_are(name):
    text = io.StringIO()
    console = Console(force_terminal=True, file=text, width=300, color_system=None)
    Progress(1, console).count(Outcome(name, "failed", reason=name))
    assert text.getvalue() == shown(f"failed   {name}  {name}".rstrip()) + "\n"


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_an_error_is_one_line_that_can_be_seen(error):
    for name in NAMES:
        assert one_line(error(name)).isprintable()


def test_sections_of_a_cache_are_shown(tmp_path, monkeypatch, capsys):
    fields = {"engine": "e\x1b[2J\nx", "weights_digest": "\u202e", "image_size": "\x9b"}
    monkeypatch.setattr(cache_module, "sections", lambda cache: [Section("k\x07", fields, [])])
    assert main(["--cache", str(tmp_path), "list"]) == 0
    assert len(seen(capsys.readouterr().out)) == 3


def test_a_damaged_description_is_warned_of_in_a_line(tmp_path):
    folder = tmp_path / "\x1b[2J\nx" / ("ab" * 16)
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text("{")
    with pytest.warns(UserWarning, match=r"\\x1b\[2J\\nx/.*recipe.json is damaged: ") as caught:
        main(["--cache", str(folder.parent), "list"])
    assert all(str(warning.message).isprintable() for warning in caught)


def test_a_log_has_a_line_for_each_record(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", True)
    with log_file(tmp_path):
        for name in NAMES:
            logging.getLogger("harness").warning("of %s", name)
        try:
            raise ValueError("\x1b[2J\udcff")
        except ValueError:
            logging.getLogger("harness").exception("failed")
    lines = seen((tmp_path / "job.log").read_text(encoding="utf-8"))
    assert [line.rpartition(" of ")[2] for line in lines[: len(NAMES)]] == list(map(shown, NAMES))
    assert "ValueError: \\x1b[2J\\udcff" in lines


@given(ANY_TEXT | st.tuples(st.sampled_from("'=+-@\t "), ANY_TEXT).map("".join))
def test_any_name_survives_a_cell(text):
    cell = to_cell(text)
    assert from_cell(cell) == text
    assert not is_formula(cell) or cell.startswith("'")
    line = csv_line(["x", cell])
    assert list(csv.reader(io.StringIO(line, newline=""))) == [["x", cell]]
    if not {";", "\t"} & {*cell}:
        file = io.StringIO(newline="")
        csv.writer(file).writerow(["x", cell])
        assert line == file.getvalue()


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_cell_is_one_cell_where_lines_are_split_otherwise(separator):
    line = csv_line([f'x{separator}=cmd "a"', "y"])
    assert line == f'"x{separator}=cmd ""a""",y\r\n'
    [cells] = csv.reader([line], delimiter=separator)
    assert len(cells) == 1


@pytest.mark.parametrize("number", [-0.5, 1e-300, -1e300, float("-inf"), float("nan"), 2.0**60])
def test_numbers_stay_numbers_in_a_cell(number):
    assert to_cell(repr(number)) == from_cell(repr(number)) == repr(number)


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", " ="]
)
def test_no_cell_begins_a_formula(start):
    assert to_cell(f"{start}cmd") == f"'{start}cmd"
