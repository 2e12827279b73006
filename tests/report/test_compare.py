from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from harness.report.__main__ import held_table, main
from harness.report.bootstrap import auroc, images_of, resample
from harness.report.paired import compare, holm, pair_up, two_sided, wilcoxon
from harness.report.published import compare_published, read_published
from harness.report.results import TableResults
from harness.report.table import ReportError, read_tables
from tests.report.synthetic import scores

ROOT = Path(__file__).parents[2]


def _other(results: TableResults) -> TableResults:
    """The same images under another model."""
    scored = {
        category: tuple(
            image._replace(score=new.score)
            for image, new in zip(images, scores(draw + 20), strict=True)
        )
        for draw, (category, images) in enumerate(results.scores.items())
    }
    return replace(results, scores=scored)


def test_a_pair_is_resampled_by_the_same_images(published: Path) -> None:
    table, results = held_table(published, "parts_tiny")
    other = _other(results)
    pair = pair_up((table, results), (table, other))[0]
    names = sorted(image.image for image in results.scores["bolt"])
    by_name = [{i.image: i for i in r.scores["bolt"]} for r in (results, other)]
    aligned = [
        images_of([i[n].anomalous for n in names], [i[n].score for n in names]) for i in by_name
    ]
    one, two = (resample(i, auroc, key="parts/bolt") for i in aligned)
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
    text = compare((table, results), (table, replace(other, scores=shifted)))
    bolt = next(line for line in text.splitlines() if line.startswith("| bolt"))
    assert bolt.startswith("| bolt | 0.775 | **")
    assert main(["--root", str(published), "compare", "parts_tiny", "parts_tiny"]) == 0
    assert "## Image AUROC" in capsys.readouterr().out


def test_other_test_images_cannot_be_compared(published: Path) -> None:
    table, results = held_table(published, "parts_tiny")
    fewer = replace(results, scores={"bolt": results.scores["bolt"][1:]})
    with pytest.raises(ReportError, match="test images of parts/bolt are not the same"):
        compare((table, results), (table, fewer))
    with pytest.raises(ReportError, match="share no finished category"):
        compare((table, results), (table, replace(results, scores={})))
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


def test_bootstrap_p_is_uniform_where_nothing_differs() -> None:
    # Differences of resamples around an observed difference that itself varies around zero.
    rng = np.random.default_rng(0)
    p = [two_sided(rng.normal(rng.normal(), 1, size=2000)) for _ in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert two_sided(np.ones(99)) == pytest.approx(0.02)


def test_published_numbers_have_the_averages_that_were_published() -> None:
    for source in read_published(ROOT / "results"):
        for dataset, metric in {(d, m) for d, _, m in source.values}:
            values = {c: v for (d, c, m), v in source.values.items() if (d, m) == (dataset, metric)}
            average = values.pop("Average")
            assert not values or np.mean(list(values.values())) == pytest.approx(average, abs=6e-4)


def test_published_categories_are_those_of_the_dataset() -> None:
    tables = read_tables(ROOT / "conf")
    categories = {t.choice("dataset"): t.categories for t in tables.values()}
    for source in read_published(ROOT / "results"):
        assert all(c in (*categories[d], "Average") for d, c, _ in source.values)


def _sources(checkout: Path) -> None:
    folder = checkout / "results"
    (folder / "published.csv").write_text(
        "source,dataset,category,metric,value\n"
        "old,parts,bolt,image_auroc,0.7\nold,parts,cap,image_auroc,0.9\n"
        "old,parts,Average,image_auroc,0.8\n"
    )
    (folder / "published_sources.csv").write_text(
        "source,label,backbone,reference,differences\n"
        "old,Old,big,a paper,other weights\nunused,Unused,big,nowhere,none\n"
    )


def test_published_numbers_stand_beside_ours(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sources(published)
    assert main(["--root", str(published), "compare", "published"]) == 0
    text = capsys.readouterr().out
    assert "| bolt | **0.775** | 0.575 to 0.908 | 0.700 | +0.075 |" in text
    assert "| cap | 0.796 | 0.596 to 0.917 | **0.900** | -0.104 |" in text
    assert "| 01 | 1.000 | 0.779 to 1.000 | – | – |" in text
    assert "| **Average** | **0.857** | 0.768 to 0.922 | 0.800 | +0.057 |" in text
    assert "- Old (a paper): other weights." in text
    assert "Unused" not in text


def test_nothing_to_compare_is_said(published: Path) -> None:
    _sources(published)
    tables = read_tables(published / "conf")
    held = dict.fromkeys(tables, TableResults())
    with pytest.raises(ReportError, match="no table with a finished run"):
        compare_published(tables, held, read_published(published / "results"))
