"""The overviews that a page shows first, on cases worked by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from harness.report.__main__ import main
from harness.report.declaration import Table, read_table
from harness.report.publish import check, publish
from harness.report.readme import overview, reference, status
from harness.report.results import Row, Source, TableResults, read_results
from tests.report.synthetic import complete, failed, maskless, record, run

WIDE = {"backbone": "wide", "weights_digest": "cd" * 32}


def source(name: str, method: str = "dfkde", **values: float) -> Source:
    """A source of `parts`; `bolt_image_auroc=0.5` is a number of it."""
    keys = {key.partition("_")[::2]: value for key, value in values.items()}
    return Source(
        name=name,
        label=f"{name} <1>",
        method=method,
        backbone="other",
        reference=f"a page of {name}",
        differences="",
        values={("parts", c, metric): Decimal(str(value)) for (c, metric), value in keys.items()},
    )


def block(checkout: Path, kind: str, name: str) -> str:
    text = (checkout / "README.md").read_text()
    found = re.search(f"<!-- {kind}: {name} -->\n\n(.*?)\n\n<!-- /{kind} -->", text, re.DOTALL)
    assert found
    return found[1]


def lines(html: str) -> list[list[str]]:
    """The cells of each line of an overview."""
    rows = re.findall("<tr>(.*?)</tr>", html)
    return [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def spans(html: str) -> list[str]:
    return re.findall('<th colspan="([0-9]+)"', html)


def row(of: Row, category: str, **metric: float) -> Row:
    return replace(of, category=category, metrics=metric)


@pytest.fixture
def tiny(published: Path) -> tuple[Table, TableResults]:
    """A table with its rows replaced by invented ones: bolt finished, cap failed, 01 missing."""
    first = read_results(published / "results", "parts_tiny").rows[0]
    numbers = {"image_auroc": 0.91, "image_f1_max": 0.82, "pixel_auroc": 0.73, "aupro": 0.64}
    bolt = replace(first, metrics=numbers)
    cap = replace(first, category="cap", status="failed", error="lost", metrics={})
    return read_table(published / "conf", "parts_tiny"), TableResults((bolt, cap))


METRICS = ["Image AUROC", "Image F1", "Pixel AUROC", "Pixel AUPRO"]


def test_groups_of_columns(tiny: tuple[Table, TableResults]) -> None:
    """What only the reference has is dashes of ours; a failed job is shown as failed."""
    table, results = tiny
    wide = replace(table, name="wide", configs={"": table.config | {"backbone": BACKBONE}})
    [bolt, _] = results.rows
    held = {"parts_tiny": results, "wide": TableResults((row(bolt, "cap", image_auroc=0.5),))}
    theirs = source("paper", bolt_image_auroc=0.9, Average_image_auroc=0.8, **{"01_aupro": 0.7})
    text = overview("parts", [table, wide], held, [theirs])
    assert lines(text) == [
        ["Category", "tiny", "wider", "paper &lt;1&gt;"],
        [*METRICS, *METRICS, "Image AUROC", "Pixel AUPRO"],
        ["bolt", "0.910", "0.820", "0.730", "0.640", *"––––", "0.900", "–"],
        ["cap", *["failed"] * 4, "0.500", *"–––", "–", "–"],
        ["01", *"––––", *"––––", "–", "0.700"],
        ["<b>Average</b>", *["– (1/3)"] * 5, *["– (0/3)"] * 3, "0.800", "–"],
    ]
    assert spans(text) == ["4", "4", "2"]
    assert text.endswith(
        "\n\nDFKDE with `tiny`, images of 256 px, seed 42. DFKDE with `wider`, images of 256 px,"
        " seed 42. paper \\<1\\>: published numbers, not run here (a page of paper).\n"
    )


BACKBONE = {"name": "wider", "factory": "nowhere:wide", "layers": ["layer4"]}


def test_what_nobody_has_is_left_out(tiny: tuple[Table, TableResults]) -> None:
    table, _ = tiny
    held = {"parts_tiny": TableResults()}
    assert overview("parts", [table], held, []) == (
        "None yet: `python -m harness.run -m experiment=parts_tiny`.\n"
    )
    assert overview("parts", [], held, [source("far")]) == "None yet.\n"
    text = overview("parts", [table], held, [source("paper", Average_image_auroc=0.8)])
    assert lines(text) == [
        ["Category", "paper &lt;1&gt;"], ["Image AUROC"], ["<b>Average</b>", "0.800"],
    ]  # fmt: skip
    text = overview("parts", [], held, [source("paper", cap_image_auroc=0.8)])
    assert lines(text)[2:] == [["cap", "0.800"], ["<b>Average</b>", "–"]]


def test_tables_of_one_backbone_bear_their_own_names(tiny: tuple[Table, TableResults]) -> None:
    table, results = tiny
    held = {"parts_tiny": results, "again": results}
    text = overview("parts", [table, replace(table, name="again")], held, [])
    assert lines(text)[0] == ["Category", "parts_tiny", "again"]


def test_a_category_may_be_called_average(tiny: tuple[Table, TableResults]) -> None:
    table, results = tiny
    table = replace(table, categories=("Average",))
    held = {"parts_tiny": TableResults((replace(results.rows[0], category="Average"),))}
    assert lines(overview("parts", [table], held, []))[2:] == [
        ["Average", "0.910", "0.820", "0.730", "0.640"],
        ["<b>Average</b>", "0.910", "0.820", "0.730", "0.640"],
    ]


def test_the_reference_has_the_most_numbers_that_are_shown() -> None:
    one = source("one", bolt_image_auroc=0.5)
    two = source("two", bolt_image_auroc=0.5, cap_image_auroc=0.5)
    also = source("also", bolt_image_auroc=0.5, bolt_image_f1_max=0.5)
    other = source("other", a_image_average_precision=0.1, b_pixel_f1_max=0.1, c_x=0.1)
    assert reference("parts", [one, other, two, also]) is two
    assert reference("parts", [source("x", "padim", a_aupro=0.1, b_aupro=0.1), one]) is one
    assert reference("parts", [other]) is None
    assert reference("cells", [one, two]) is None
    assert reference("parts", []) is None


def test_status_tells_what_there_is_first(
    tiny: tuple[Table, TableResults], published: Path
) -> None:
    table, results = tiny
    cells = read_table(published / "conf", "cells_small")
    wide = read_table(published / "conf", "parts_wide")
    held = {"parts_tiny": results, "cells_small": TableResults(), "parts_wide": TableResults()}
    assert status([cells, table, wide], held) == (
        "- Parts (synthetic): 1/3 categories with `tiny` (1 failed)\n"
        "- Cells (synthetic, without masks): none yet\n"
    )
    held["parts_wide"] = TableResults(results.rows[:1])
    assert status([table, wide], held) == (
        "- Parts (synthetic): 1/3 categories with `tiny` (1 failed); 1/3 categories with `wide`\n"
    )
    assert status([], held) == ""


def test_new_runs_fill_the_pages(checkout: Path) -> None:
    publish(checkout, [])
    assert block(checkout, "results", "cells").startswith("None yet")
    assert "parts" not in block(checkout, "status", "all")
    runs = [*complete(), run("m", maskless("mono", 4)), run("w", record("cap", 5, **WIDE))]
    assert publish(checkout, runs) == ([], [])
    parts = lines(block(checkout, "results", "parts"))
    assert parts[0] == ["Category", "tiny", "wide"]
    values = [one.record.metrics["image_auroc"] for one in complete()]
    assert [line[1] for line in parts[2:5]] == [f"{value:.3f}" for value in values]
    assert parts[5][1] == f"{sum(values) / 3:.3f}"
    assert parts[5][5:] == ["– (1/3)"] * 4
    assert lines(block(checkout, "results", "cells"))[1] == METRICS[:2], "it has no masks"
    assert block(checkout, "status", "all") == (
        "- Parts (synthetic): 3/3 categories with `tiny`; 1/3 categories with `wide`\n"
        "- Cells (synthetic, without masks): 1/1 categories with `tiny`"
    )
    assert check(checkout) == ""


def test_only_one_table_made_again_moves_its_overview(published: Path) -> None:
    publish(published, [run("w", record("cap", 5, **WIDE))], only=["parts_wide"])
    assert lines(block(published, "results", "parts"))[0] == ["Category", "tiny", "wide"]
    assert "1/3 categories with `wide`" in block(published, "status", "all")
    assert check(published) == ""


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_check_covers_each_page(swept: Path, capsys: pytest.CaptureFixture[str], page: str) -> None:
    path = swept / page
    text = path.read_text()
    edited = re.sub(r"0\.[0-9]{3}(?=</td>| ±)", "0.999", text)
    assert edited != text
    path.write_text(edited)
    assert main(["--root", str(swept), "--check"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(f"--- {page}\n+++ {page} as results/ has it\n")
    assert publish(swept, []) == ([], [])
    assert path.read_text() == text


def test_published_numbers_stand_beside_ours(published: Path) -> None:
    (published / "results/published.csv").write_text(
        "source,dataset,category,metric,value\npaper,parts,cap,image_auroc,0.125\n"
    )
    (published / "results/published_sources.csv").write_text(
        "source,label,method,backbone,reference,differences\npaper,Paper,dfkde,wide,a page,none\n"
    )
    assert "+<tr><th" in check(published)
    publish(published, [])
    beside = [line[5] for line in lines(block(published, "results", "parts"))[2:]]
    assert beside == ["–", "0.125", "–", "–"]
    assert check(published) == ""


@pytest.mark.parametrize(
    "change", [{"backbone": {"kind": 1}}, {"image_size": 128}], ids=["no table", "other rows"]
)
def test_rows_of_a_table_that_is_none_now_stay_in_the_overview(
    swept: Path, change: dict[str, object]
) -> None:
    path = swept / "conf/experiment/parts_wide.yaml"
    declared = yaml.safe_load(path.read_text())
    path.write_text("# @package _global_\n" + yaml.safe_dump(declared | change))
    before = block(swept, "results", "parts"), block(swept, "status", "all")
    cells = lines(block(swept, "results", "cells"))
    later = {"started": "2026-01-01T00:00:00Z"}
    runs = [failed("f", "01", "lost"), run("m", maskless("mono", 5), **later)]
    _, [refusal] = publish(swept, runs)
    assert "parts_wide.yaml" in refusal
    assert (block(swept, "results", "parts"), block(swept, "status", "all")) == before
    assert lines(block(swept, "results", "cells")) != cells, "the others are made"


def test_a_page_that_is_no_file_is_named(checkout: Path) -> None:
    (checkout / "docs/results.md").unlink()
    (checkout / "docs/results.md").mkdir()
    with pytest.raises(ValueError, match=r"docs/results.md is not a regular file"):
        publish(checkout, complete())
    assert not (checkout / "results").exists()
