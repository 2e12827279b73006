"""Tables of one dataset compared on the same test images: two in differences, more in ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.record import ImageScore
from harness.report import bootstrap
from harness.report.bootstrap import Resampled
from harness.report.declaration import INTERVAL_METRIC, RESAMPLES, ReportError, Table
from harness.report.formats import markdown, text
from harness.report.layout import ABSENT, Grid, best_bold, display, number, signed
from harness.report.stored import TableResults, backed_scores

Held = tuple[Table, TableResults]
FEWEST = 6
"""Categories for Friedman's test, whose distribution under no difference is an approximation."""
_TITLE = f"## {display(INTERVAL_METRIC)}\n\n"


class Pair(NamedTuple):
    """The image AUROC of a category under two models, over the same resamples."""

    category: str
    first: Resampled
    second: Resampled
    difference: Resampled  # second minus first


def compare(first: Held, second: Held) -> str:
    """Compare two tables on the categories that both have, as Markdown."""
    pairs, names = pair_up(first, second), (first[0].name, second[0].name)
    raw = [bootstrap.p_value(pair.difference) for pair in pairs]
    body = [
        (pair.category, *_cells(pair), _p(p), _p(corrected))
        for pair, p, corrected in zip(pairs, raw, holm(raw), strict=True)
    ]
    _, *sides = zip(*pairs, strict=True)
    mean = Pair("Average", *map(bootstrap.mean_of, sides))
    average = (*mean[:1], *_cells(mean), _p(bootstrap.p_value(mean.difference)), ABSENT)
    header = ("Category", *names, "difference", "95 % interval", "p", "p, Holm")
    compared = [pair.category for pair in pairs]
    lost = ", ".join(text(c) for c in first[0].categories if c not in compared)
    overall = wilcoxon([pair.difference.value for pair in pairs])
    caption = (
        "Difference: second minus first. Intervals: paired BCa bootstrap,"
        f" {RESAMPLES:,} resamples of the test images, the same ones for both, normal and"
        " anomalous apart. p: of no difference, the level at which that interval begins to exclude"
        " it. p, Holm: corrected for the number of categories. Over"
        f" categories, Wilcoxon's signed-rank test: {_p_is(overall)}, n = {len(pairs)}."
        + (f" Left out, not finished in both: {lost}." if lost else "")
    )
    return _TITLE + markdown(Grid(header, tuple(body), average), caption)


def pair_up(first: Held, second: Held) -> list[Pair]:
    """Resample the image AUROC of the categories that both tables have, by the same images."""
    pairs = []
    for key, scores in _aligned([first, second]).items():
        try:
            one, other = (bootstrap.resample(bootstrap.images_of(s), key=key) for s in scores)
        except ValueError as error:
            raise ReportError(f"{key}: {error}") from None
        pairs.append(Pair(key.partition("/")[2], one, other, difference_of(one, other)))
    return pairs


def difference_of(one: Resampled, other: Resampled) -> Resampled:
    """Return how much higher the second is, of two metrics of the same resampled images."""
    left_out = tuple(b - a for a, b in zip(one.left_out, other.left_out, strict=True))
    return Resampled(other.value - one.value, other.resamples - one.resamples, left_out)


def _aligned(held: Sequence[Held]) -> dict[str, list[list[ImageScore]]]:
    """Gather the scores of the categories that all tables have, in one order of the images."""
    for table, _ in held:
        if not table.headline:
            raise ReportError(
                f"{table.name} is over several seeds or settings: it keeps no scores to compare"
            )
    scores, table = [backed_scores(t.name, results) for t, results in held], held[0][0]
    dataset, names = table.choice("dataset"), " and ".join(table.name for table, _ in held)
    if any(other.choice("dataset") != dataset for other, _ in held):
        raise ReportError(f"{names} are of different datasets")
    found = {}
    for category in table.categories:
        if all(category in one for one in scores):
            ordered = [sorted(one[category], key=lambda image: image.image) for one in scores]
            tested = [[(image.image, image.anomalous) for image in one] for one in ordered]
            if any(one != tested[0] for one in tested):
                raise ReportError(
                    f"the test images of {dataset}/{category} are not the same in {names}"
                )
            found[f"{dataset}/{category}"] = ordered
    if not found:
        raise ReportError(f"{names} share no finished category")
    return found


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number: Holm, Scandinavian Journal of Statistics 6 (1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    corrected, floor = [0.0] * len(p), 0.0
    for done, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p) - done) * p[index]))
        corrected[index] = floor
    return corrected


def wilcoxon(differences: Sequence[float]) -> float:
    """Compute Wilcoxon's signed-rank p value over categories; 1 where no category differs."""
    from scipy import stats

    if not any(differences):
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def rank(held: Sequence[Held]) -> str:
    """Compare three tables or more by their mean ranks over all categories, as Markdown."""
    categories, names = held[0][0].categories, [table.name for table, _ in held]
    if len(categories) < FEWEST:
        raise ReportError(
            f"Friedman's test needs at least {FEWEST} categories, {names[0]} has {len(categories)}"
        )
    _aligned(held)
    values = np.empty((len(categories), len(held)))
    for column, (table, results) in enumerate(held):
        found = {row.category: row.metrics.get(INTERVAL_METRIC) for row in results.rows}
        lacking = [category for category in table.categories if found.get(category) is None]
        if lacking:
            what = f"{table.name} has no {INTERVAL_METRIC} of {', '.join(lacking)}"
            raise ReportError(f"ranks need every category: {what}")
        values[:, column] = [found[category] for category in categories]
    body = [(c, *_written(line.tolist())) for c, line in zip(categories, values, strict=True)]
    ranks, statistic, p = friedman(values)
    last = ("Mean rank", *(f"{mean:.2f}" for mean in ranks))
    caption = (
        "Mean rank: over categories, 1 for the highest; equal ones share the mean of their ranks."
        f" Friedman's test of no difference: chi² = {statistic:.3f} with {len(held) - 1} degrees of"
        f" freedom, {_p_is(p)}, n = {len(categories)}."
    )
    return _TITLE + markdown(Grid(("Category", *names), tuple(body), last), caption)


def friedman(values: bootstrap.Floats) -> tuple[list[float], float, float]:
    """Rank models over categories: Demsar, JMLR 7 (2006), section 3.2.2, corrected for ties."""
    from scipy import stats

    ranks = stats.rankdata(-values, axis=1)
    tied = bool((ranks == ranks[:, :1]).all())
    statistic, p = (0.0, 1.0) if tied else stats.friedmanchisquare(*values.T)
    return ranks.mean(axis=0).tolist(), float(statistic), float(p)


def _cells(pair: Pair) -> tuple[str, ...]:
    span = bootstrap.interval(pair.difference)
    ends = " to ".join(signed(end) for end in span) if span else ABSENT
    return (*_written([pair.first.value, pair.second.value]), signed(pair.difference.value), ends)


def _written(values: Sequence[float]) -> list[str]:
    return best_bold(values, list(map(number, values)))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value)


def _p_is(value: float) -> str:
    return f"p {_p(value)}" if value < 0.001 else f"p = {_p(value)}"
