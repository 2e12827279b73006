"""The summary of a sweep fits the terminal, and any stream can write it."""

from __future__ import annotations

import io
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from harness.metrics.registry import HEADLINE, METRICS
from harness.record import Outcome
from harness.sweep.progress import Progress, summary
from harness.system.terminal import say

LONG = "mvtec/metal_nut · dfkde_residual · efficientnet_lite0 · s42 · image_size=224"
OUTCOMES = [
    Outcome(LONG, "finished", metrics=dict.fromkeys(HEADLINE, 0.5), identity="1a" * 32),
    Outcome("btad/01 · knn · resnet50 · s1", "failed", seconds=1234.5, identity="2b" * 32),
]
NAMES = [METRICS[name].display for name in HEADLINE]
EVERY = ["Job", "Identity", "Status", *NAMES, "Seconds"]


def heads(lines):
    """The columns of a table, whose heads may take two lines."""
    end = next(number for number, line in enumerate(lines) if line.startswith("┡"))
    cells = [line.strip("┃").split("┃") for line in lines[1:end]]
    return [" ".join(" ".join(column).split()) for column in zip(*cells, strict=True)]


def first_job(lines):
    """The words of the first name, however it is folded."""
    rows = [line.split("│") for line in lines if line.startswith("│")]
    return " ".join(" ".join(row[1] for row in rows).split("btad")[0].split())


@pytest.mark.parametrize("width", range(50, 180))
def test_table_is_no_wider_than_it_may_be_and_keeps_names_whole(width):
    lines = summary(OUTCOMES, width).split("\n")
    assert {cell_len(line) for line in lines} == {cell_len(lines[0])}
    assert cell_len(lines[0]) <= width
    assert first_job(lines) == LONG
    if width >= 76:  # where metrics have to go, their cells go with them
        assert sum(line.count("0.500") for line in lines) == len(HEADLINE)


@pytest.mark.parametrize("width", range(1, 50))
def test_a_terminal_of_a_few_columns_breaks_nothing(width):
    lines = summary(OUTCOMES, width).split("\n")
    assert max(map(cell_len, lines)) <= max(width, 20)
    assert "finished" in "".join(lines)


def test_columns_go_in_an_order():
    shown = [heads(summary(OUTCOMES, width).split("\n")) for width in range(180, 20, -1)]
    seen = list(dict.fromkeys(map(tuple, shown)))
    without = [name for name in EVERY if name != "Identity"]
    expected = [EVERY, without, without[:-1]]
    expected += [without[: 2 + count] for count in (3, 2, 1, 0)]
    assert [list(columns) for columns in seen] == expected


class Terminal(io.TextIOWrapper):
    """A terminal that takes characters of one encoding."""

    def __init__(self, encoding, terminal=True):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def written(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("terminal", [True, False])
def test_width_is_the_terminals_and_without_one_what_is_needed(monkeypatch, terminal):
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setattr(sys, "stdout", Terminal("utf-8", terminal))
    lines = summary(OUTCOMES).split("\n")
    assert (max(map(cell_len, lines)) <= 90) is terminal
    assert (LONG in "\n".join(lines)) is not terminal


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_a_stream_of_any_encoding_takes_it(monkeypatch, encoding):
    name = "größe/日本 · dfkde · tiny · s1"
    failed = Outcome(name, "failed", reason="OSError: – ≠")
    stream = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    say(*summary([*OUTCOMES, failed], 200).split("\n"))
    table, last = stream.written().rstrip("\n").rsplit("\n", 1)
    assert len({cell_len(line) for line in table.split("\n")}) == 1
    if encoding == "ascii":
        assert last.startswith(r"gr\xf6\xdfe/\u65e5\u672c \xb7 dfkde \xb7 tiny \xb7 s1: failed: ")
        assert set(table.split("\n")[0]) == set("+-")
        assert r"| btad/01 \xb7 knn \xb7 resnet50 \xb7 s1 " in table
    elif encoding == "latin-1":
        assert last == r"größe/\u65e5\u672c · dfkde · tiny · s1: failed: OSError: \u2013 \u2260"
    elif encoding == "utf-8":
        assert last == f"{name}: failed: OSError: – ≠"


def test_progress_takes_any_encoding():
    stream = Terminal("ascii")
    Progress(1, Console(force_terminal=True, file=stream, width=200)).count(OUTCOMES[1])
    assert r"btad/01 \xb7 knn \xb7 resnet50 \xb7 s1" in stream.written()


def test_notes_of_the_data_are_below_the_table_once_each():
    """However many jobs there are on the same data."""
    notes = ("elpv/mono: one", "elpv/mono: two\x1b[2J")
    lines = summary([Outcome(f"job {k}", "finished", notes=notes) for k in range(3)]).split("\n")
    assert lines[-2:] == ["elpv/mono: one", "elpv/mono: two\\x1b[2J"]
    assert sum("elpv" in line for line in lines) == 2


RUN = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("outcome", "lines"),
    [
        (Outcome("a", "finished", RUN), [f"a: run {RUN}"]),
        (
            Outcome("a", "finished", RUN, reason="metrics are undefined: b", model="model=1"),
            [
                "a: finished: metrics are undefined: b",
                f"a: run {RUN}",
                "python -m harness.predict model=1 images=FOLDER",
            ],
        ),
        (
            Outcome("a", "skipped", RUN, reason="run 1", model=""),
            [
                "a: skipped (run 1); force=true runs it again and saves its model, which that run"
                " did not"
            ],
        ),
        (
            Outcome("a", "skipped", RUN, reason="run 1", model="model=1"),
            [
                "a: skipped (run 1); force=true runs it again",
                "python -m harness.predict model=1 images=FOLDER",
            ],
        ),
        (
            Outcome("a", "skipped", RUN, reason="run 1"),
            ["a: skipped (run 1); force=true runs it again"],
        ),
    ],
)
def test_the_run_and_how_to_use_its_model(outcome, lines):
    assert summary([outcome]).split("\n")[5:] == lines
    command = f"python -m harness.predict model={RUN} images=FOLDER"
    assert cell_len(command) <= 80
