from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.metrics import auc

from harness.charts import bend_around, bent_ticks, histogram, roc_chart
from harness.report.__main__ import main
from harness.report.declaration import ReportError
from harness.report.formats import COLUMNS, INDEX, TEMPLATES, auroc_bars, read_gallery
from harness.report.layout import Grid
from harness.report.results import read_results
from tests.report.synthetic import metrics, scores

LARGEST = 5_000_000
PARTS: Any = TEMPLATES.get_template("parts.html").module


def test_roc_curve_is_drawn_with_its_area() -> None:
    images = scores(1)
    points = re.search(r'polyline class="curve" points="([^"]*)"', roc_chart("bolt", images).body)
    assert points is not None
    x, y = np.array([pair.split(",") for pair in points[1].split()], dtype=float).T
    area = auc((x - 40) / 290, (300 - y) / 290)
    assert area == pytest.approx(metrics(images)["image_auroc"], abs=1e-3)


def test_histogram_counts_every_image_once() -> None:
    drawn = histogram("bolt", scores(1)).body
    assert re.findall(r">(\w+) \((\d+)\)</text>", drawn) == [
        ("good", "12"),
        ("bent", "10"),
        ("crack", "10"),
    ]
    counts = [int(n) for n in re.findall(r"<title>(\d+) of \d+</title>", drawn)]
    assert sum(counts) == len(scores(1))


def test_histogram_of_equal_scores_is_drawn() -> None:
    drawn = histogram("bolt", [image._replace(score=3.0) for image in scores(1)]).body
    assert "nan" not in drawn
    assert drawn.count("<rect") == 3


def test_a_bent_axis_keeps_order_and_goes_back() -> None:
    bend = bend_around([10.0, 11, 12, 13, 14])
    values = [-5.0, 10, 12, 14, 90, 4000]
    bent = [bend.forward(v) for v in values]
    assert bent == sorted(bent)
    assert [bend.backward(b) for b in bent] == pytest.approx(values)
    ticks = bent_ticks(bend, bent[0], bent[-1])
    assert ticks == sorted(ticks)
    assert all(-5 <= tick <= 4000 for tick in ticks)


def test_bars_start_at_chance_on_either_side(swept: Path) -> None:
    rows = read_results(swept / "results", "parts_tiny").rows
    drawn = PARTS.bars(*auroc_bars(rows))
    assert drawn.count('role="listitem"') == 3
    assert '<b style="left:0.0%;width:55.00%">' in drawn, "0.775 between 0.5 and 1"
    below = rows[0].__class__(**vars(rows[0]) | {"metrics": {"image_auroc": 0.4}, "low": {}})
    assert '<b style="left:0.0%;width:16.67%">' in PARTS.bars(*auroc_bars([below])), (
        "0.4 left of 0.5"
    )


def test_text_from_files_is_escaped() -> None:
    grid = Grid(("Category", "A&B"), (("<b>x</b>", "0.5"),), ("Average", "–"))
    drawn = PARTS.table(grid, "`<i>` & more")
    assert "<b>x" not in drawn
    assert "&lt;b&gt;x&lt;/b&gt;" in drawn
    assert "<code>&lt;i&gt;</code> &amp; more" in drawn
    assert "<svg" in roc_chart('"><script>', scores(1)).svg
    assert "<script>" not in roc_chart('"><script>', scores(1)).svg


def _gallery(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("picture.webp", "map.webp", "mask.png"):
        cv2.imwrite(str(folder / name), np.full((160, 160, 3), 127, np.uint8))
    with (folder / INDEX).open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                COLUMNS,
                ("miss", "c/<1>.png", "bent", "1.5", "n", "picture.webp", "map.webp", "mask.png"),
                ("false_alarm", "c/2.png", "good", "2.5", "", "picture.webp", "", ""),
            ]
        )


def test_a_wrong_gallery_index_is_named(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text("a,b\n")
    with pytest.raises(ReportError, match=r"index.csv does not have the columns kind, image"):
        read_gallery(tmp_path)
    assert read_gallery(tmp_path / "none") == []


@pytest.fixture
def page(swept: Path, tmp_path: Path) -> Path:
    """The page of the mini sweep with pictures of one category."""
    _gallery(tmp_path / "gallery" / "parts_tiny" / "bolt")
    output = tmp_path / "report.html"
    arguments = ["--output", str(output), "--pictures", str(tmp_path / "gallery")]
    assert main(["--root", str(swept), "html", *arguments]) == 0
    return output


def test_page_tells_precision_and_time_and_each_defect_type(published: Path) -> None:
    """Of invented scores: the AUROC by type pair by pair, 0.5 s of the model for 62 images."""
    output = published / "report.html"
    assert main(["--root", str(published), "html", "--output", str(output)]) == 0
    text = output.read_text()
    assert text.count(f"{500 / 62:.3f}</td>") == 4  # three categories and their average
    assert ">Image AP</button>" in text
    assert (
        "and test images, on <code>cores 2 · processor invented · system Linux x86_64</code>."
        in text
    )
    for draw in (1, 2):
        normal = [image.score for image in scores(draw) if not image.anomalous]
        for kind in ("bent", "crack"):
            of_kind = [image.score for image in scores(draw) if image.defect_type == kind]
            wins = sum((a > b) + 0.5 * (a == b) for a in of_kind for b in normal)
            row = f'<th scope="row">{kind}</th><td>10</td>'
            value = f"{wins / len(normal) / len(of_kind):.3f}"
            assert f"{row}<td>{value}</td>" in text


def test_page_holds_everything_itself(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|iframe|object|embed)\b|\bsrc=\"(?!data:)|@import|url\(", text)
    assert "default-src 'none'" in text
    assert text.count('src="data:image/webp;base64,') == 3
    assert "c/&lt;1&gt;.png" in text
    assert "Not run yet" not in text


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real headless Chromium; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on PATH")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=flags)
        yield started
        started.close()


def _open(browser: Any, page: Path, **context: Any) -> tuple[Any, list[str]]:
    opened = browser.new_context(**context).new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("requestfailed", lambda request: problems.append(request.url[:80]))
    opened.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:")) else problems.append(r.url),
    )
    opened.goto(page.as_uri())
    return opened, problems


def _first_column(opened: Any) -> list[str]:
    return list(opened.locator("#parts_tiny > .scroll tbody th").all_text_contents())


def test_a_click_or_a_key_sorts_a_table(browser: Any, page: Path) -> None:
    opened, problems = _open(browser, page)
    header = opened.locator("#parts_tiny > .scroll thead th").nth(1)
    assert _first_column(opened) == ["bolt", "cap", "01"]
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert _first_column(opened) == ["01", "cap", "bolt"]
    opened.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert _first_column(opened) == ["bolt", "cap", "01"]
    assert opened.locator("#parts_tiny > .scroll tfoot th").text_content() == "Average"
    wide = opened.locator("#parts_wide thead th").nth(1).locator("button")
    for _ in range(2):
        wide.click()
        names = opened.locator("#parts_wide tbody th").all_text_contents()
        assert names[0] == "bolt", "cells without a number stay last"
    assert problems == []


def test_the_keyboard_reaches_and_opens_everything(browser: Any, page: Path) -> None:
    opened, _ = _open(browser, page)
    reached = set()
    for _ in range(80):
        opened.keyboard.press("Tab")
        reached.add(opened.evaluate("document.activeElement.tagName"))
    assert {"A", "BUTTON", "SUMMARY"} <= reached
    opened.locator("summary").first.focus()
    opened.keyboard.press("Enter")
    assert opened.locator("details").first.get_attribute("open") is not None
    assert opened.locator("details svg").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1200, 900), (390, 844)], ids=["desktop", "phone"])
def test_page_fits_and_can_be_read(
    browser: Any, page: Path, size: tuple[int, int], scheme: str
) -> None:
    opened, problems = _open(
        browser, page, color_scheme=scheme, viewport={"width": size[0], "height": size[1]}
    )
    opened.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert opened.evaluate("document.documentElement.scrollWidth") <= size[0]
    levels = "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((h) => +h.tagName[1])"
    headings = opened.evaluate(levels)
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings)), headings
    loaded = "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    for image in opened.locator("img").all():
        image.scroll_into_view_if_needed()
    opened.wait_for_function(loaded)
    assert _least_contrast(opened) >= 4.5
    assert problems == []


def _least_contrast(opened: Any) -> float:
    """The smallest contrast of any text with the page's ground, by WCAG 2's formula."""
    colours = opened.evaluate(
        """() => {
          const of = (element, name) => getComputedStyle(element)[name];
          const texts = [...document.querySelectorAll("p, td, th, code, a, text, figcaption")];
          return [of(document.body, "backgroundColor"),
                  ...texts.map((e) => of(e, e.tagName === "text" ? "fill" : "color"))];
        }"""
    )

    def luminance(colour: str) -> float:
        channels = np.array([int(c) for c in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    ground, *texts = (luminance(colour) for colour in dict.fromkeys(colours))
    return min((max(t, ground) + 0.05) / (min(t, ground) + 0.05) for t in texts)
