"""Names that others chose change nothing in tables and pages but the words."""

from __future__ import annotations

import csv
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.record import ImageScore, StoredRun
from harness.report.__main__ import main
from harness.report.declaration import ReportError, read_tables
from harness.report.formats import COLUMNS, INDEX, build_page, latex, read_gallery, spans
from harness.report.layout import caption, code, grid_of, text
from harness.report.publish import check, publish
from harness.report.results import public, read_results
from harness.system.terminal import is_formula, shown, to_cell
from tests.names import NAMES
from tests.report.synthetic import failed, record, run, scores

FEW = 8
"""Finished jobs, which are resampled; the others fail, and their reasons are in the caption."""


def images_of(name: str) -> tuple[ImageScore, ...]:
    return tuple(
        i._replace(image=f"{name}/{i.image}", defect_type=name if i.anomalous else "good")
        for i in scores(1)
    )


def runs_of(names: tuple[str, ...]) -> list[StoredRun]:
    finished = [
        run(f"r{name}", record(name, scores=images_of(name)), commit=f"{number}{name}")
        for number, name in enumerate(names[:FEW])
    ]
    return finished + [failed(f"r{name}", name, f"OSError: {name}") for name in names[FEW:]]


def published(checkout: Path, names: tuple[str, ...]) -> Path:
    """Let the categories and the title bear names, and fill the table of one job for each."""
    path = checkout / "conf/dataset/parts.yaml"
    held = yaml.safe_load(path.read_text(encoding="utf-8"))
    text = yaml.safe_dump(held | {"categories": list(names), "title": names[0]})
    path.write_text(text, encoding="utf-8")
    # It declares categories that are not there any more.
    (checkout / "conf/experiment/parts_few.yaml").unlink()
    (checkout / "docs/results.md").unlink()
    publish(checkout, runs_of(names))
    return checkout


# YAML holds no halves of characters, and no file a NUL.
SETS = [
    tuple(dict.fromkeys(name for name in NAMES[start:] + NAMES[:start] if "\udcff" not in name))
    for start in range(0, len(NAMES), FEW)
]


@pytest.fixture(scope="module", params=SETS, ids=lambda names: ascii(names[0]))
def named(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, ...]]:
    copy = tmp_path_factory.mktemp("named") / "checkout"
    shutil.copytree(Path(__file__).parent / "checkout", copy)
    return published(copy, request.param), request.param


def test_readme_and_results_hold_any_name(named: tuple[Path, tuple[str, ...]]) -> None:
    root, names = named
    assert check(root) == ""
    held = read_results(root / "results", "parts_tiny")
    assert [row.category for row in held.rows] == list(names)
    assert held.scores == {name: images_of(name) for name in names[:FEW]}
    before = (root / "README.md").read_bytes()
    publish(root, runs_of(names))
    assert (root / "README.md").read_bytes() == before
    for path in (root / "results").rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not any(is_formula(cell) and cell[0] != "'" for cell in cells)


TABLE = {
    f"{part}_{end}"
    for part in ("table", "thead", "tbody", "tr", "th", "td")
    for end in ("open", "close")
}
PARAGRAPH = {"paragraph_open", "inline", "text", "paragraph_close"}


def tokens(source: str) -> list[tuple[str, str]]:
    """The kinds of tokens that a Markdown parser finds, and the words of texts."""
    found = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source):
        for part in [token, *(token.children or [])]:
            words = part.content if part.type in ("text", "code_inline", "html_block") else ""
            if part.type != "text_special":
                found.append((part.type, words))
    return found


def table_of(readme: Path) -> str:
    text = readme.read_text(encoding="utf-8")
    start = text.index("<!-- table: parts_tiny -->\n")
    return text[start : text.index("\n<!-- /table -->\n", start)]


def test_markdown_shows_any_name(named: tuple[Path, tuple[str, ...]]) -> None:
    root, names = named
    found = tokens(table_of(root / "README.md"))
    kinds = [kind for kind, _ in found]
    assert kinds.count("tr_open") == len(names) + 2
    assert kinds.count("strong_open") == 1
    assert set(kinds) <= TABLE | PARAGRAPH | {
        *("html_block", "strong_open", "strong_close", "code_inline"),
    }
    texts = [words for kind, words in found if kind == "text"]
    assert [shown(name).strip() in texts for name in names] == [True] * len(names)
    codes = [words for kind, words in found if kind == "code_inline"]
    for name in names[FEW:]:
        # A reason is written in one line, as `results/` has it.
        reason = shown(public(" ".join(f"OSError: {name}".split()), name))
        assert reason.replace("`", "\\x60") in codes


@given(st.text(st.characters()) | st.text("-+=.)1# _*`|a\\\\<!>[]&;~$"))
def test_words_come_back_from_markdown(words: str) -> None:
    expected = shown(words).strip()
    assert "".join(found for _, found in spans(text(words))) == expected
    assert list(spans(code(words))) == [(True, shown(words).replace("`", "\\x60") or " ")]
    for head, line in (("", ""), ("x", "| x |\n| --- |\n| ")):
        found = tokens(f"{line}{text(words)} with")
        assert {kind for kind, _ in found} <= TABLE | PARAGRAPH
        seen = "".join(word for kind, word in found if kind == "text")
        assert seen == head + f"{expected} with".lstrip()


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, and its words."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, ...]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))


def test_the_overview_shows_any_name(named: tuple[Path, tuple[str, ...]]) -> None:
    """A Markdown parser takes all of its table for HTML, in which no name is a tag."""
    root, names = named
    page = (root / "README.md").read_text(encoding="utf-8")
    source = page.partition("<!-- results: parts -->")[2].partition("<!-- /results -->")[0]
    found = tokens(source)
    assert [kind for kind, _ in found][:2] == ["html_block", "paragraph_open"]
    assert {kind for kind, _ in found[1:]} <= PARAGRAPH | {"code_inline"}
    structure = Structure()
    structure.feed(found[0][1])
    structure.close()
    assert all(shown(name) in structure.words for name in names)
    assert {tag for tag, *_ in structure.tags} == TAGS
    assert sum(tag == "td" for tag, *_ in structure.tags) == 5 * (len(names) + 1)
    listed = tokens(page.partition("<!-- status: all -->")[2].partition("<!-- /status -->")[0])
    [title, *_] = [words for kind, words in listed if kind == "text"]
    assert title.startswith(shown(names[0]).strip() + ": ")


TAGS = {"table", "thead", "tbody", "tr", "th", "td", "b"}


def gallery(folder: Path, name: str, picture: str = "00_picture.webp") -> None:
    folder.mkdir(parents=True)
    (folder / "00_picture.webp").write_bytes(b"x")
    line = ("miss", name, name, "1.5", name, picture, "", "")
    rows = [COLUMNS, tuple(map(to_cell, line))]
    quoted = "".join(",".join('"' + c.replace('"', '""') + '"' for c in row) + "\n" for row in rows)
    (folder / INDEX).write_text(quoted, encoding="utf-8", errors="surrogatepass", newline="")


def page_of(root: Path, pictures: Path) -> Structure:
    tables = read_tables(root / "conf")
    held = {name: read_results(root / "results", name) for name in tables}
    structure = Structure()
    structure.feed(build_page(tables, held, pictures=pictures))
    structure.close()
    return structure


def test_the_page_has_the_elements_of_one_with_plain_names(
    named: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    root, names = named
    copy = shutil.copytree(Path(__file__).parent / "checkout", tmp_path / "plain")
    usual = published(copy, tuple(f"n{number}" for number in range(len(names))))
    drawn, expected = page_of(root, tmp_path / "no"), page_of(usual, tmp_path / "no")
    assert drawn.tags == expected.tags
    assert all(shown(name) in drawn.words for name in names)


@pytest.mark.parametrize("name", NAMES)
def test_the_gallery_shows_any_name(name: str, tmp_path: Path) -> None:
    gallery(tmp_path / "g", name)
    [picture] = read_gallery(tmp_path / "g")
    assert (picture.image, picture.defect_type, picture.note) == (name, name, name)


@pytest.mark.parametrize(
    "picture", ["../secret.png", "/etc/passwd", 'a.png" onerror="x', "a.svg", "a/b.png", ".png"]
)
def test_a_gallery_names_pictures_of_its_own_folder(picture: str, tmp_path: Path) -> None:
    gallery(tmp_path / "g", "x", picture)
    with pytest.raises(ReportError, match=r"must name pictures such as 00_map.webp, got '"):
        read_gallery(tmp_path / "g")


def test_latex_prints_any_name(named: tuple[Path, tuple[str, ...]]) -> None:
    """No command but those that print a character, and no argument of the line before."""
    root, names = named
    table, held = (
        read_tables(root / "conf")["parts_tiny"],
        read_results(root / "results", "parts_tiny"),
    )
    text = latex(shown(names[0]), grid_of(table, held), caption(table, held.rows))
    assert re.fullmatch(r"\\label\{tab:[\w.:-]*\}", text.split("\n")[3])
    known = {
        *("begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule"),
        *("texttt", "textbackslash", "textasciitilde", "textasciicircum", "pm", "cdot"),
        *("textless", "textgreater", "textbar", *"\\&%$#_{}"),
    }
    assert set(re.findall(r"\\([a-zA-Z]+|.)", text.replace("\\\n", "\\\\\n"))) <= known
    body = text.partition("\\midrule\n")[2].partition("\\midrule")[0].rstrip("\n").split("\n")
    assert len(body) == len(names)
    assert all(line.endswith("\\\\") and not line.startswith(("[", "*")) for line in body)
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text.replace("\\\\", "")):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0


def test_notes_of_the_report_are_shown(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run(name, record("bolt")) for name in ("r\x1b[2J\nerror: x", "r\u202e")]
    monkeypatch.setattr("harness.tracking.read_runs", lambda uri: runs)
    monkeypatch.setattr("harness.tracking.outdated", lambda uri: "schema \x1b[2J")
    monkeypatch.setattr("harness.tracking.read_record", lambda run, uri: run.record)
    main(["--root", str(checkout)])
    lines = capsys.readouterr().err.split("\n")
    assert all(line.isprintable() for line in lines)
    assert "schema \\x1b[2J" in lines
    assert any("2 finished runs" in line for line in lines)
    assert not any(line.startswith("error") for line in lines)
