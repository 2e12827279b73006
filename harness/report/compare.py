"""Comparisons: with published numbers, and of tables on the same test images, two or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.metrics.registry import METRICS
from harness.record import ImageScore
from harness.report import bootstrap, layout
from harness.report.bootstrap import Resampled
from harness.report.declaration import INTERVAL_METRIC, RESAMPLES, ReportError, Table
from harness.report.formats import markdown
from harness.report.layout import ABSENT, Grid, code, display, number, text
from harness.report.results import AVERAGE, METHOD, Source, TableResults, backed_scores

Held = tuple[Table, TableResults]
FEWEST = 6
"""Categories for Friedman's test, whose distribution under no difference is an approximation."""
_TITLE = f"## {display(INTERVAL_METRIC)}\n\n"
_OURS = (
    "Published numbers come without per-image scores: the interval is of ours alone, and a"
    " difference has none.\n\n"
)
_OTHERS = f"As published. Other methods on other features: no comparison with {METHOD}."


def compare_published(
    tables: Mapping[str, Table], held: Mapping[str, TableResults], sources: Sequence[Source]
) -> str:
    """Set every table of DFKDE with a run beside the published numbers of DFKDE, as Markdown.

    Only numbers of the table's own backbone stand beside ours; the others are named.
    """
    _check_categories(tables, sources)
    parts, used = [], []
    for name, table in tables.items():
        ours = table.headline and table.choice("model") == METHOD
        if ours and any(row.finished for row in held[name].rows):
            theirs = [s for s in sources if s.method == METHOD and s.has(table.choice("dataset"))]
            parts += _sections(table, held[name], theirs)
            used += [source for source in theirs if source.backbone == table.choice("backbone")]
    if not parts:
        raise ReportError(
            f"no table of {METHOD} with a finished run has published numbers of its dataset"
        )
    return "\n".join(parts + _notes([source for source in sources if source in used], _OURS))


def other_methods(tables: Mapping[str, Table], sources: Sequence[Source]) -> str:
    """List the published numbers of other methods by dataset, as Markdown; none of ours."""
    _check_categories(tables, sources)
    others = [source for source in sources if source.method != METHOD]
    parts = []
    for dataset, table in {t.choice("dataset"): t for t in tables.values()}.items():
        title = f"## {text(table.title)}, other methods, other features"
        for metric in METRICS:
            if shown := [source for source in others if source.has(dataset, metric)]:
                categories = (*table.config["dataset"]["categories"], AVERAGE)
                *body, last = [(c, *_theirs(table, shown, c, metric)) for c in categories]
                header = ("Category", *(f"{source.label}: {source.method}" for source in shown))
                grid = Grid(header, tuple(body), last)
                parts.append(f"{title}: {display(metric)}\n\n{markdown(grid, _OTHERS)}")
    if not parts:
        raise ReportError(f"published_sources.csv has no numbers of a method other than {METHOD}")
    return "\n".join(parts + _notes(others, ""))


def _check_categories(tables: Mapping[str, Table], sources: Sequence[Source]) -> None:
    """Refuse numbers of unknown datasets and categories, and of some categories only."""
    known = {t.choice("dataset"): t.config["dataset"]["categories"] for t in tables.values()}
    for source in sources:
        for dataset, metric in dict.fromkeys((d, m) for d, _, m in source.values):
            what = f"published.csv: {source.name}, {metric} of {dataset}"
            if dataset not in known:
                raise ReportError(f"{what}: dataset must be one of {', '.join(sorted(known))}")
            found = {c for d, c, m in source.values if (d, m) == (dataset, metric)} - {AVERAGE}
            if wrong := found and sorted(found ^ {*known[dataset]}):
                rule = f"must have each of {', '.join(known[dataset])}, or {AVERAGE} alone"
                raise ReportError(f"{what}: {rule}; unknown or missing: {', '.join(wrong)}")


def _sections(table: Table, results: TableResults, sources: Sequence[Source]) -> list[str]:
    """Compare a table with the sources of its backbone, and name the others."""
    dataset, backbone = table.choice("dataset"), table.choice("backbone")
    title = f"## {text(f'{table.title}, {backbone}')}"
    caption = f"Ours: {code(table.command)}. Differences are ours minus theirs. Best in bold."
    sections = []
    for metric in METRICS:
        beside = [s for s in sources if s.backbone == backbone and s.has(dataset, metric)]
        if beside:
            grid = _beside(table, results, beside, metric=metric)
            sections.append(f"{title}: {display(metric)}\n\n{markdown(grid, caption)}")
    others = [source for source in sources if source.backbone != backbone]
    if others:
        names = ", ".join(f"{text(s.label)} ({code(s.backbone)})" for s in others)
        sections.append(f"{title}: other backbones\n\nNot shown beside ours: {names}.\n")
    return sections


def _beside(table: Table, results: TableResults, sources: Sequence[Source], *, metric: str) -> Grid:
    """Write our numbers with their intervals, theirs, and the differences; the best in bold."""
    ours = layout.grid_of_pivot(layout.pivot_of(table, results.rows, [metric]))
    of: dict[str, tuple[float | None, float | None, float | None]] = {
        row.category: (row.metrics.get(metric), row.low.get(metric), row.high.get(metric))
        for row in results.rows
    }
    if average := results.averages.get(metric):
        of[AVERAGE] = average
    lines = []
    for category, written in [*ours.body, ours.average]:
        value, low, high = of.get(category, (None, None, None))
        theirs = _theirs(table, sources, category, metric)
        numbers = [None if item == ABSENT else float(item) for item in theirs]
        first, *others = layout.best_bold([value, *numbers], [written, *theirs])
        line = [category, first, layout.limits(low, high)]
        for cell, other in zip(others, numbers, strict=True):
            line += [cell, ABSENT if value is None or other is None else f"{value - other:+.3f}"]
        lines.append(tuple(line))
    header = [title for source in sources for title in (source.label, "difference")]
    return Grid(("Category", "Ours", layout.INTERVAL, *header), tuple(lines[:-1]), lines[-1])


def _theirs(table: Table, sources: Sequence[Source], category: str, metric: str) -> list[str]:
    """Look up a number of each source; its average may be of more categories."""
    fewer = len(table.categories) < len(table.config["dataset"]["categories"])
    if category == AVERAGE and fewer:
        return [ABSENT] * len(sources)
    key = table.choice("dataset"), category, metric
    return [source.values.get(key, ABSENT) for source in sources]


def _notes(sources: Sequence[Source], before: str) -> list[str]:
    lines = [f"- {s.label} ({s.reference}): {s.differences}.\n" for s in sources]
    return [before + "".join(lines)] if lines else []


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
        pairs.append(Pair(key.partition("/")[2], one, other, bootstrap.difference_of(one, other)))
    return pairs


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
    order, corrected = np.argsort(p), np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.arange(len(p), 0, -1) * np.sort(p)).clip(max=1)
    return corrected.tolist()


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
    columns = []
    for table, results in held:
        found = {row.category: row.metrics.get(INTERVAL_METRIC) for row in results.rows}
        if lacking := [category for category in table.categories if found.get(category) is None]:
            what = f"{table.name} has no {INTERVAL_METRIC} of {', '.join(lacking)}"
            raise ReportError(f"ranks need every category: {what}")
        columns.append([found[category] for category in categories])
    values = np.array(columns, np.float64).T
    body = [
        (c, *layout.best_bold(line.tolist())) for c, line in zip(categories, values, strict=True)
    ]
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
    ends = " to ".join(f"{end:+.3f}" for end in span) if span else ABSENT
    values = layout.best_bold([pair.first.value, pair.second.value])
    return (*values, f"{pair.difference.value:+.3f}", ends)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value)


def _p_is(value: float) -> str:
    return f"p {_p(value)}" if value < 0.001 else f"p = {_p(value)}"
