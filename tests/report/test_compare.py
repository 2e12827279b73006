from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from harness.record import ImageScore
from harness.report.__main__ import held_table, main
from harness.report.bootstrap import images_of, resample
from harness.report.compare import (
    FEWEST,
    Held,
    compare,
    compare_published,
    friedman,
    holm,
    pair_up,
    rank,
    wilcoxon,
)
from harness.report.declaration import ReportError, read_table, read_tables
from harness.report.declaration import expected as setting
from harness.report.results import (
    METHOD,
    Row,
    TableResults,
    backed_scores,
    read_published,
    read_results,
    scores_digest,
    write_scores,
)
from tests.report.synthetic import metrics, scores

ROOT = Path(__file__).parents[2]


def _backed(results: TableResults, scored: dict[str, tuple[ImageScore, ...]]) -> TableResults:
    """Results with other scores, behind which their rows stand."""
    rows = tuple(
        replace(
            row,
            metrics=metrics(scored[row.category]),
            n_test_normal=sum(not image.anomalous for image in scored[row.category]),
            n_test_anomalous=sum(image.anomalous for image in scored[row.category]),
            scores_digest=scores_digest(scored[row.category]),
        )
        for row in results.rows
        if row.category in scored
    )
    return replace(results, rows=rows, scores=scored)


def _other(results: TableResults) -> TableResults:
    """The same images under another model."""
    scored = {
        category: tuple(
            image._replace(score=new.score)
            for image, new in zip(images, scores(draw + 20), strict=True)
        )
        for draw, (category, images) in enumerate(results.scores.items())
    }
    return _backed(results, scored)


def test_a_pair_is_resampled_by_the_same_images(published: Path) -> None:
    table, results = held_table(published, "parts_tiny")
    other = _other(results)
    pair = pair_up((table, results), (table, other))[0]
    names = sorted(image.image for image in results.scores["bolt"])
    by_name = [{i.image: i for i in r.scores["bolt"]} for r in (results, other)]
    aligned = [images_of([i[n] for n in names]) for i in by_name]
    one, two = (resample(images, key="parts/bolt") for images in aligned)
    np.testing.assert_array_equal(pair.difference.resamples, two.resamples - one.resamples)
    assert pair.difference.value == two.value - one.value


def test_a_model_does_not_differ_from_itself(published: Path) -> None:
    held = held_table(published, "parts_tiny")
    text = compare(held, held)
    assert "| bolt | 0.775 | 0.775 | +0.000 | – | 1.000 | 1.000 |" in text
    assert "p = 1.000, n = 3" in text


def test_the_better_value_is_bold(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, results = held_table(published, "parts_tiny")
    other = _other(results)
    shifted = {
        category: tuple(i._replace(score=i.score + 5 * i.anomalous) for i in images)
        for category, images in other.scores.items()
    }
    text = compare((table, results), (table, _backed(other, shifted)))
    bolt = next(line for line in text.splitlines() if line.startswith("| bolt"))
    assert bolt.startswith("| bolt | 0.775 | **")
    assert main(["--root", str(published), "compare", "parts_tiny", "parts_tiny"]) == 0
    assert "## Image AUROC" in capsys.readouterr().out


def test_other_test_images_cannot_be_compared(published: Path) -> None:
    table, results = held_table(published, "parts_tiny")
    fewer = _backed(results, {"bolt": results.scores["bolt"][1:]})
    with pytest.raises(ReportError, match="test images of parts/bolt are not the same"):
        compare((table, results), (table, fewer))
    with pytest.raises(ReportError, match="share no finished category"):
        compare((table, results), (table, TableResults()))
    with pytest.raises(ReportError, match="of different datasets"):
        compare((table, results), held_table(published, "cells_small"))


def test_holm_on_a_case_worked_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.2 times 4, 3, 2, 1; then no smaller than the one before.
    assert holm([0.2, 0.01, 0.03, 0.02]) == pytest.approx([0.2, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_wilcoxon_counts_signs_exactly_in_a_small_case() -> None:
    # All five positive: 2 of the 2**5 equally likely sign patterns are as extreme.
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)
    assert wilcoxon([0.0, 0.0]) == 1.0


def _many(published: Path, draws: Sequence[int]) -> list[Held]:
    """Tables of six categories, each under a model of its own, the same images in all."""
    table, results = held_table(published, "parts_tiny")
    names = tuple("abcdef")
    found = []
    for draw in draws:
        rows = tuple(replace(results.rows[0], category=name) for name in names)
        scored = {name: scores(draw * len(names) + i) for i, name in enumerate(names)}
        declared = replace(table, name=f"model{draw}", categories=names)
        found.append((declared, _backed(replace(results, rows=rows), scored)))
    return found


def test_more_than_two_tables_are_ranked_over_their_categories(published: Path) -> None:
    held = _many(published, [1, 2, 3, 4])
    values = np.array([[row.metrics["image_auroc"] for row in r.rows] for _, r in held])
    expected = stats.rankdata(-values, axis=0).mean(axis=1)
    test = stats.friedmanchisquare(*values)
    text = rank(held)
    last = next(line for line in text.splitlines() if line.startswith("| **Mean rank**"))
    assert last == f"| **Mean rank** | {' | '.join(f'{mean:.2f}' for mean in expected)} |"
    assert f"chi² = {test.statistic:.3f} with 3 degrees of freedom, p = {test.pvalue:.3f}" in text
    assert text.count("**") == 2 * (FEWEST + 1)  # one best value in each line, and the last title


def test_friedman_on_a_case_with_ties_worked_by_hand() -> None:
    values = np.array([[0.9, 0.8, 0.7], [0.9, 0.9, 0.7], [0.9, 0.8, 0.8], [0.6, 0.6, 0.6]])
    ranks, statistic, p = friedman(values)
    # Ranks 1 2 3, 1.5 1.5 3, 1 2.5 2.5, 2 2 2: sums 5.5, 8, 10.5 about 8, so that
    # 12 / (4 * 3 * 4) * (2.5 ** 2 + 2.5 ** 2) = 3.125, over 1 - (6 + 6 + 24) / (4 * 3 * 8) = 0.625.
    assert ranks == [5.5 / 4, 2.0, 10.5 / 4]
    assert statistic == pytest.approx(3.125 / 0.625)
    assert p == pytest.approx(np.exp(-statistic / 2))  # chi squared of 2 degrees of freedom
    assert friedman(np.ones((6, 3))) == ([2.0, 2.0, 2.0], 0.0, 1.0)


def test_ranks_are_refused_in_one_line(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(published), "compare", *["parts_tiny"] * 3]) == 1
    said = capsys.readouterr().err
    assert said == "error: Friedman's test needs at least 6 categories, parts_tiny has 3\n"
    held = _many(published, [1, 2, 3])
    table, results = held[1]
    kept = {name: scored for name, scored in results.scores.items() if name not in "be"}
    held[1] = (table, _backed(results, kept))
    with pytest.raises(ReportError, match=r"model2 has no image_auroc of b, e$"):
        rank(held)
    fewer = {name: scored[1:] for name, scored in results.scores.items()}
    with pytest.raises(ReportError, match="test images of parts/a are not the same in model1"):
        rank([held[0], held[2], (table, _backed(results, fewer))])


def test_categories_that_one_table_lacks_are_named(published: Path) -> None:
    table, results = held_table(published, "parts_tiny")
    fewer = _backed(results, {"bolt": results.scores["bolt"], "01": results.scores["01"]})
    assert "n = 2. Left out, not finished in both: cap." in compare(
        (table, results), (table, fewer)
    )


def test_scores_that_no_row_stands_behind_are_refused(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = published / "results" / "parts_tiny.csv"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(line for line in lines if ",cap," not in line))
    output = str(published / "page.html")
    for command in (["compare", "parts_tiny", "parts_tiny"], ["html", "--output", output]):
        assert main(["--root", str(published), *command]) == 1
        assert capsys.readouterr().err == (
            "error: results/scores/parts_tiny.csv has scores of cap, of which"
            " results/parts_tiny.csv has no finished row\n"
        )


def test_scores_that_do_not_give_the_numbers_of_their_row_are_refused(published: Path) -> None:
    results = read_results(published / "results", "parts_tiny")
    row, whole = results.rows[0], results.scores["bolt"]

    def check_scores(row: Row, scores: Sequence[ImageScore]) -> None:
        held = replace(results, rows=(row,), scores={"bolt": tuple(scores)})
        backed_scores("parts_tiny", held)

    check_scores(row, whole)
    named = "^results/scores/parts_tiny.csv: parts/bolt of run r-bolt: its "
    with pytest.raises(
        ReportError, match=rf"{named}image_auroc is 0\.775, and 0\.\d+ by its scores$"
    ):
        check_scores(row, [whole[0]._replace(score=-9.0), *whole[1:]])
    # An order of the images that changes no metric.
    with pytest.raises(ReportError, match=f"{named}digest is of other scores"):
        check_scores(row, whole[::-1])
    with pytest.raises(ReportError, match=f"{named}n_test_anomalous is 20, and 0 by its scores"):
        check_scores(replace(row, n_test_normal=0), ())
    with pytest.raises(ReportError, match=f"{named}n_test_anomalous is 20, and 19 by its scores"):
        check_scores(row, whole[1:])
    with pytest.raises(ReportError, match=f"{named}scores must be finite, got nan"):
        check_scores(row, [image._replace(score=float("nan")) for image in whole])


@pytest.mark.parametrize("line", ["bolt,a.png,good,0", "bolt,a.png,good,no,1", "bolt,a,good,0,x"])
def test_a_line_that_holds_no_score_is_named(published: Path, line: str) -> None:
    path = published / "results" / "scores" / "parts_tiny.csv"
    path.write_text(write_scores({}) + line + "\n")
    with pytest.raises(ReportError, match=r"parts_tiny.csv:2 is not a line of scores"):
        read_results(published / "results", "parts_tiny")


def test_what_cannot_be_resampled_is_told(published: Path) -> None:
    table, results = held_table(published, "parts_tiny")
    one = tuple(i for i in results.scores["bolt"] if i.anomalous or i.image.endswith("000.png"))
    held = (table, _backed(results, {"bolt": one}))
    with pytest.raises(ReportError, match="parts/bolt: an interval needs at least 2 normal images"):
        compare(held, held)
    few = held_table(published, "parts_few")
    with pytest.raises(ReportError, match="parts_few is over several seeds or settings"):
        compare(few, few)


def _published_lines(name: str) -> list[dict[str, str]]:
    with (ROOT / "results" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_published_number_is_read_as_it_is_written_and_traced_to_its_place() -> None:
    lines = _published_lines("published.csv")
    read = {
        (source.name, *key): str(value)
        for source in read_published(ROOT / "results")
        for key, value in source.values.items()
    }
    columns = ("source", "dataset", "category", "metric")
    assert len(lines) == len(read) > 400
    assert read == {tuple(line[name] for name in columns): line["value"] for line in lines}
    sources = _published_lines("published_sources.csv")
    assert {line["source"] for line in lines} == {line["source"] for line in sources}
    for line in sources:
        assert all(line.values())
        assert line["reference"].startswith("github.com/")
    assert len({line["label"] for line in sources}) == len(sources)


def test_published_averages_are_those_of_their_categories() -> None:
    """Both are rounded: the mean to half a unit of the last digit, the average to another half."""
    columns: dict[tuple[str, ...], dict[str, str]] = {}
    for line in _published_lines("published.csv"):
        key = (line["source"], line["dataset"], line["metric"])
        columns.setdefault(key, {})[line["category"]] = line["value"]
    for key, column in columns.items():
        average = column.pop("Average")
        unit = Fraction(1, 10 ** len(average.partition(".")[2]))
        mean = sum(map(Fraction, column.values())) / len(column) if column else Fraction(average)
        assert abs(mean - Fraction(average)) <= unit, key


def test_the_references_of_each_dataset_are_complete() -> None:
    """DFKDE with ResNet18: two of MVTec AD by category, one of the others, means of a third."""
    tables = read_tables(ROOT / "conf")
    categories = {t.choice("dataset"): set(t.categories) for t in tables.values()}
    found = {
        (source.name, dataset)
        for source in read_published(ROOT / "results")
        if (source.method, source.backbone) == (METHOD, "resnet18")
        for dataset in ("mvtec", "btad", "visa")
        if {c for d, c, m in source.values if (d, m) == (dataset, "image_auroc")}
        == categories[dataset] | {"Average"}
    }
    theirs = {("iadbe_dfkde_resnet18", dataset) for dataset in ("mvtec", "btad", "visa")}
    assert found == theirs | {("anomalib_resnet18", "mvtec")}


@pytest.mark.parametrize("dataset", ["mvtec", "btad", "visa"])
def test_the_settings_of_the_numbers_to_reproduce_are_declared(dataset: str) -> None:
    """As configs/models/dfkde.yaml of IADBE and the transforms of anomalib 1.1.0 have them."""
    table = read_table(ROOT / "conf", f"{dataset}_resnet18")
    [source] = [s for s in read_published(ROOT / "results") if s.name == "iadbe_dfkde_resnet18"]
    assert (table.choice("model"), table.choice("backbone")) == (source.method, source.backbone)
    assert set(table.categories) == {c for d, c, _ in source.values if d == dataset} - {"Average"}
    backbone = table.config["backbone"]
    assert (backbone["layers"], backbone["weights"]) == (["layer4"], "IMAGENET1K_V1")
    assert backbone["mean"] == [0.485, 0.456, 0.406]
    assert backbone["std"] == [0.229, 0.224, 0.225]
    expected = {
        "image_size": 256,
        "center_crop": None,
        "n_train": None,
        "features.resize": "float_antialias",
        "features.precision": "fp32",
        "model.n_components": 16,
        "model.max_training_points": 40000,
    }
    assert {name: setting(table.config, name) for name in expected} == expected


HEADER = "source,label,method,backbone,reference,differences\n"
OLD = """\
source,dataset,category,metric,value
old,parts,bolt,image_auroc,0.7
old,parts,cap,image_auroc,0.9012
old,parts,01,image_auroc,0.8
old,parts,Average,image_auroc,0.80
old,parts,Average,aupro,0.3
wide,parts,Average,image_auroc,0.8
nearest,parts,Average,image_auroc,0.95
"""


def _sources(checkout: Path) -> None:
    folder = checkout / "results"
    (folder / "published.csv").write_text(OLD)
    (folder / "published_sources.csv").write_text(
        f"{HEADER}old,Old,dfkde,tiny,a paper,other weights\n"
        "wide,Wide,dfkde,wide,a book,other network\n"
        "nearest,Nearest,knn,tiny,a page,other method\nunused,Unused,dfkde,tiny,nowhere,none\n"
    )


def _compared(checkout: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["--root", str(checkout), "compare", "published", *options]) == 0
    return capsys.readouterr().out


def test_published_numbers_stand_beside_ours(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sources(published)
    text = _compared(published, capsys)
    assert "| Category | Ours | 95 % interval | Old | difference |" in text
    assert "| bolt | **0.775** | 0.575 to 0.908 | 0.7 | +0.075 |" in text
    assert "| cap | 0.796 | 0.596 to 0.917 | **0.9012** | -0.105 |" in text
    assert "| 01 | **1.000** | 0.779 to 1.000 | 0.8 | +0.200 |" in text
    assert "| **Average** | **0.857** | 0.768 to 0.922 | 0.80 | +0.057 |" in text
    assert ": Pixel AUPRO" in text
    assert "- Old (a paper): other weights." in text
    assert "Unused" not in text


def test_numbers_of_another_backbone_are_named_and_stand_beside_nothing(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sources(published)
    text = _compared(published, capsys)
    assert "tiny: other backbones\n\nNot shown beside ours: Wide (`wide`).\n" in text
    assert "a book" not in text
    sources = published / "results" / "published_sources.csv"
    sources.write_text(sources.read_text().replace(",dfkde,tiny", ",dfkde,tiny2"))
    text = _compared(published, capsys)
    assert "| Ours |" not in text
    assert "Not shown beside ours: Old (`tiny2`), Wide (`wide`).\n" in text


def test_other_methods_are_listed_on_their_own(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sources(published)
    beside, alone = _compared(published, capsys), _compared(published, capsys, "--methods")
    assert "earest" not in beside
    assert "0.95" not in beside.replace("0.95 %", "")
    assert "other methods, other features: Image AUROC" in alone
    assert "| Category | Nearest: knn |\n" in alone
    assert "| bolt | – |\n" in alone
    assert "| **Average** | 0.95 |\n" in alone
    assert "- Nearest (a page): other method." in alone
    for ours in ("Ours:", "Old", "Wide", "0.775"):
        assert ours not in alone
    assert main(["--root", str(published), "compare", "parts_tiny", "cells_small", "--methods"])
    assert capsys.readouterr().err == "error: --methods goes with `compare published` alone\n"


def test_other_models_of_ours_are_not_compared_with_dfkde(published: Path) -> None:
    _sources(published)
    table, results = held_table(published, "parts_tiny")
    sources = read_published(published / "results")
    assert compare_published({"a": table}, {"a": results}, sources)
    knn = replace(table, configs={"": {**table.config, "model": {"name": "knn"}}})
    with pytest.raises(ReportError, match="no table of dfkde with a finished run"):
        compare_published({"a": knn}, {"a": results}, sources)


def test_the_average_of_more_categories_is_not_beside_ours(published: Path) -> None:
    _sources(published)
    table, results = held_table(published, "parts_tiny")
    fewer = replace(table, categories=("bolt", "cap"))
    text = compare_published({"a": fewer}, {"a": results}, read_published(published / "results"))
    assert "| bolt | **0.775** | 0.575 to 0.908 | 0.7 | +0.075 |" in text
    assert "0.768 to 0.922 | – | – |" in text


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "parts,cap",
            "parts,cup",
            "old, image_auroc of parts: must have each of bolt, cap, 01, or Average alone; ",
        ),
        ("old,parts,cap,image_auroc,0.9012\n", "", "or Average alone; unknown or missing: cap"),
        ("parts,cap", "parts,bolt", ".csv:3: old has the image_auroc of parts/bolt twice"),
        (
            "old,parts,Average,aupro",
            "old,part,Average,aupro",
            "of part: dataset must be one of cells, parts",
        ),
        ("cap,image_auroc", "cap,auroc", ".csv:3: metric must be one of image_auroc, "),
        ("0.9012", "90.12", ".csv:3: value must be a fraction from 0.0 to 1.0, got '90.12'"),
        ("0.9012", "1.001", "from 0.0 to 1.0, got '1.001'"),
        ("0.9012", "nan", "from 0.0 to 1.0, got 'nan'"),
        (
            "0.9012",
            "0.9012,0.9",
            "published.csv:3 is not a line of published numbers (ValueError: 6 cells",
        ),
        ("old,parts,cap", "new,parts,cap", "published_sources.csv has no line for new"),
    ],
)
def test_wrong_published_numbers_are_one_line(
    published: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    problem: str,
) -> None:
    _sources(published)
    path = published / "results" / "published.csv"
    assert old in OLD
    path.write_text(OLD.replace(old, new, 1))
    for options in ([], ["--methods"]):
        assert main(["--root", str(published), "compare", "published", *options]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert problem in captured.err


def test_a_source_that_stands_twice_is_named(published: Path) -> None:
    _sources(published)
    path = published / "results" / "published_sources.csv"
    path.write_text(path.read_text() + "old,Old,dfkde,tiny,a paper,other weights\n")
    with pytest.raises(ReportError, match=r"published_sources.csv:6: source old stands twice"):
        read_published(published / "results")


def test_nothing_to_compare_is_said(published: Path) -> None:
    _sources(published)
    tables = read_tables(published / "conf")
    held = dict.fromkeys(tables, TableResults())
    with pytest.raises(ReportError, match="no table of dfkde with a finished run"):
        compare_published(tables, held, read_published(published / "results"))
