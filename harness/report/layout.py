"""A table's cells and caption in Markdown, for any format: rows by columns, seeds as a spread."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from harness.config import FeaturesConfig
from harness.metrics import image_metrics
from harness.metrics.registry import HEADLINE, METRICS
from harness.record import EXTRACTION, ImageScore, Record
from harness.report.declaration import INTERVAL_METRIC, RESAMPLES, Table, expected
from harness.report.results import FINISHED, Row, TableResults
from harness.report.selection import cell_of
from harness.system.terminal import shown

ABSENT = "–"
UNDEFINED = "n/a"
FAILED = "failed"
INTERVAL = "95 % interval"
TRIVIAL = "F1, all anomalous"
_FEATURES = ("engine", "precision", "device", "resize")
_SEEDS = (
    "which draw the training images and, in a dataset without a split of its own, the test images;"
    " nothing is resampled"
)


class Timed(NamedTuple):
    """Milliseconds per image: the stage in `Record.durations`, and how tables call it."""

    stage: str
    display: str
    words: str


TIMES = {
    "model_ms": Timed(
        "model",
        "Model, ms per image",
        "to fit the model and to score with it, without features, by training and test images",
    ),
    "features_ms": Timed(
        EXTRACTION,
        "Features, ms per image",
        "to extract and cache the features, with reading the images and, in the first run, building"
        " the engine, by training and test images; only of runs that took none from the cache",
    ),
}
"""By the name that `metric` takes."""

# What may begin markup. An underscore within a word is none, and stays: `metal_nut`.
_SPECIAL = re.compile(r"[\\`*<>\[\]&~$#|]|(?<![^\W_])_|_(?![^\W_])|^[-+=]")
_NUMBERED = re.compile(r"^(\d+)([.)])")

Line = tuple[str, ...]
"""The values of a row or of a column, one for each of its keys."""
Measured = float | str
"""A value, or why there is none: `FAILED`, `UNDEFINED` or `ABSENT`."""
BySeed = Mapping[int, Measured]


@dataclass(frozen=True)
class Grid:
    """A finished table of text; the average is empty for a table without one."""

    header: Line
    body: tuple[Line, ...]
    average: Line = ()


@dataclass(frozen=True)
class Pivot:
    """What a table shows: numbers of runs by row, column and seed."""

    corner: str
    rows: Mapping[Line, str]  # with their titles, in order
    columns: Mapping[Line, str]
    cells: Mapping[tuple[Line, Line], BySeed]
    seeds: int  # that each cell should have
    categories: int  # that an average is over; 0 where neither rows nor columns are categories
    across: bool = False  # whether the columns are the categories
    average: str = "Average"

    def line(self, row: Line) -> list[BySeed]:
        """List the cells of a row."""
        return [self.cells.get((row, column), {}) for column in self.columns]


def grid_of_pivot(pivot: Pivot) -> Grid:
    """Write the cells as text, with the averages of complete columns, or rows."""
    lines = {row: pivot.line(row) for row in pivot.rows}
    body = [
        (pivot.rows[row], *(_text(cell, pivot.seeds) for cell in line))
        for row, line in lines.items()
    ]
    header = [pivot.corner, *pivot.columns.values()]
    average: Line = ()
    if pivot.categories and pivot.across:
        header.append(pivot.average)
        body = [(*b, _average(pivot, line)) for b, line in zip(body, lines.values(), strict=True)]
    elif pivot.categories:
        columns = zip(*lines.values(), strict=True)
        average = (pivot.average, *(_average(pivot, column) for column in columns))
    return Grid(tuple(header), tuple(body), average)


def numbers_of(by_seed: BySeed) -> list[float]:
    """List the values that a cell has, in the order of their seeds."""
    return [value for _, value in sorted(by_seed.items()) if isinstance(value, float)]


def _text(by_seed: BySeed, seeds: int) -> str:
    if values := numbers_of(by_seed):
        return spread(values, seeds)
    return next((why for why in (FAILED, UNDEFINED) if why in by_seed.values()), ABSENT)


def _average(pivot: Pivot, cells: Sequence[BySeed]) -> str:
    """Average over categories for each seed, then spread over seeds; never with a gap."""
    known = [values for cell in cells if len(values := numbers_of(cell)) == pivot.seeds]
    if len(known) < pivot.categories:
        return f"{ABSENT} ({len(known)}/{pivot.categories})"
    return spread([fmean(values) for values in zip(*known, strict=True)], pivot.seeds)


def spread(values: Sequence[float], expected: int) -> str:
    """Print a mean and its standard deviation over seeds; incomplete ones only as a count.

    >>> spread([0.9, 0.8], 2)
    '0.850 ± 0.071'
    >>> spread([0.9, 0.9], 2)
    '0.900 (deterministic)'
    >>> spread([0.9], 2)
    '– (1/2)'
    """
    if len(values) < expected:
        return f"{ABSENT} ({len(values)}/{expected})"
    if expected == 1:
        return number(values[0])
    if min(values) == max(values):
        return f"{number(values[0])} (deterministic)"
    return f"{number(fmean(values))} ± {number(stdev(values))}"


def number(value: float) -> str:
    """Print a fraction with three decimals; a time of 10 ms or more has none."""
    return f"{value:.{0 if value >= 10 else 3}f}"


def best_bold(values: Sequence[float | None], written: Sequence[str] = ()) -> list[str]:
    """Mark those in bold whose number is printed as the highest is, unless all are."""
    printed = ["" if value is None else number(value) for value in values]
    best = max(printed) if len({*printed} - {""}) > 1 else None
    return [
        f"**{w}**" if p == best else w for p, w in zip(printed, written or printed, strict=True)
    ]


def limits(low: float | None, high: float | None) -> str:
    """Print an interval, or that there is none."""
    return ABSENT if low is None or high is None else f"{number(low)} to {number(high)}"


def display(metric: str) -> str:
    """Return the title of a metric's column."""
    return TIMES[metric].display if metric in TIMES else METRICS[metric].display


def measure(of: Record, metric: str, status: str) -> Measured:
    """Return a number of a job, of `METRICS` or `TIMES`, or why there is none."""
    if status != FINISHED:
        return FAILED
    if metric in TIMES and TIMES[metric].stage in of.durations:
        images = of.n_train + of.n_test_normal + of.n_test_anomalous
        return 1000 * of.durations[TIMES[metric].stage] / images
    return of.metrics.get(metric, UNDEFINED if metric in of.undefined else ABSENT)


def timed(metrics: Iterable[str], machines: Iterable[str]) -> list[str]:
    """Write a sentence about each of the times among the metrics, for a caption."""
    where, times = ", ".join(machines), [TIMES[metric] for metric in metrics if metric in TIMES]
    return [f"{time.display}: {time.words}, on {where}." for time in times]


def of_type(scores: Sequence[ImageScore], metric: str, *, defect_type: str) -> Measured:
    """Measure the normal test images against the anomalous ones of one defect type."""
    images = [i for i in scores if not i.anomalous or i.defect_type == defect_type]
    labels = [image.anomalous for image in images]
    values = image_metrics(labels, [image.score for image in images]).values
    return values.get(metric, UNDEFINED)


def shown_metrics(rows: Sequence[Row]) -> Line:
    """Leave out the headline metrics that no finished job could define: no masks, no pixels."""
    finished = [row for row in rows if row.finished]
    lost = {m for m in HEADLINE if finished and all(m in row.undefined for row in finished)}
    return tuple(metric for metric in HEADLINE if metric not in lost)


def pivot_of(table: Table, rows: Sequence[Row], metrics: Sequence[str] = ()) -> Pivot:
    """Lay out a declared table: categories by swept values, or by metrics if those are given."""
    cells: dict[tuple[Line, Line], dict[int, Measured]] = {}
    for row in rows:
        for metric in metrics or (table.metric,):
            column = metric if metrics else cell_of(table, row).value
            by_seed = cells.setdefault(((row.category,), (column,)), {})
            by_seed[row.seed] = measure(row, metric, row.status)
    swept = {value: title or display(table.metric) for value, title in table.columns.items()}
    titles = {metric: display(metric) for metric in metrics} or swept
    return Pivot(
        corner="Category",
        rows={(category,): category for category in table.categories},
        columns={(column,): title for column, title in titles.items()},
        cells=cells,
        seeds=len(table.seeds),
        categories=len(table.categories),
    )


def grid_of(table: Table, results: TableResults, *, more: Sequence[str] = ()) -> Grid:
    """Write a declared table; one job per category gives a column per metric, and intervals.

    `more` are the metrics that such a table shows beside those of the pages.
    """
    if not table.headline:
        return grid_of_pivot(pivot_of(table, results.rows))
    grid = grid_of_pivot(pivot_of(table, results.rows, (*shown_metrics(results.rows), *more)))
    main, f1, beside = INTERVAL_METRIC, dict[str, float](), dict[str, tuple[str, str]]()
    for row in filter(lambda row: row.finished, results.rows):
        # Of calling every test image anomalous: what any Image F1 must beat.
        trivial = 2 * row.n_test_anomalous / (2 * row.n_test_anomalous + row.n_test_normal)
        span = limits(row.low.get(main), row.high.get(main))
        f1[row.category], beside[row.category] = trivial, (span, number(trivial))
    whole = all(category in f1 for category in table.categories)
    last = number(fmean(f1[category] for category in table.categories)) if whole else ABSENT
    of_average = limits(*results.averages[main][1:]) if main in results.averages else ABSENT

    def widened(line: Line, span: str, trivial: str) -> Line:
        return (*line[:2], span, *line[2:3], trivial, *line[3:])

    return Grid(
        widened(grid.header, INTERVAL, TRIVIAL),
        tuple(widened(line, *beside.get(line[0], (ABSENT, ABSENT))) for line in grid.body),
        widened(grid.average, of_average, last),
    )


def text(words: str) -> str:
    r"""Write words so that Markdown shows them as they are, in a cell too.

    >>> print(text("metal_nut"), text("a|b <i> `c`"))
    metal_nut a\|b \<i\> \`c\`
    """
    escaped = _SPECIAL.sub(r"\\\g<0>", shown(words).strip())
    return _NUMBERED.sub(r"\1\\\2", escaped)


def code(words: str) -> str:
    r"""Write words as code, in which nothing can be escaped: a backtick is written `\x60`.

    >>> print(code("a`b"))
    `a\x60b`
    """
    return f"`{shown(words).replace('`', chr(92) + 'x60') or ' '}`"


def caption(table: Table, rows: Sequence[Row]) -> str:
    """Write a table's caption in Markdown, from its declaration and its rows alone."""
    finished = [row for row in rows if row.finished]
    done = _runs(finished) if finished else "not run yet"
    by = " by " if finished else ": "
    sentences = [f"{described(table, finished)}; {done}{by}{code(table.command)}."]
    if finished and table.headline:
        sentences += _metrics(table, finished)
    elif finished:
        spread_over = f", mean ± standard deviation over {len(table.seeds)} seeds, {_SEEDS}"
        sentences.append(f"{display(table.metric)}{spread_over * (len(table.seeds) > 1)}.")
    reasons = {row.category: row.error for row in rows if not row.finished}
    sentences += [f"{text(category)} failed: {code(why)}." for category, why in reasons.items()]
    return " ".join(sentences)


def described(table: Table, finished: Sequence[Row] = ()) -> str:
    """Write how a table's jobs are made and, of the finished ones, with which weights."""
    models = ", ".join(text(model.upper()) for model in table.choices("model"))
    backbones = []
    for name in table.choices("backbone"):
        digests = dict.fromkeys(row.weights_digest[:12] for row in finished if row.backbone == name)
        backbones.append(code(name) + "".join(f" (weights {code(digest)})" for digest in digests))
    sizes = " or ".join(dict.fromkeys(map(_size, table.configs.values())))
    several = "seeds" if len(table.seeds) > 1 else "seed"
    return (
        f"{models} with {', '.join(backbones)}, images of {sizes}{_computing(table)},"
        f" {several} {', '.join(map(str, table.seeds))}"
    )


def _size(config: dict[str, object]) -> str:
    size, crop = config["image_size"], config["center_crop"]
    whole = f"{text(str(size))} px"
    return whole if crop is None else f"{whole}, of which the central {text(str(crop))} px"


def _computing(table: Table) -> str:
    """Label features that are not made as usual: bf16 moves AUROC in the second digit."""
    usual, parts = FeaturesConfig(), []
    for name in _FEATURES:
        values = {c["features"].get(name, getattr(usual, name)) for c in table.configs.values()}
        if len(values) == 1 and values != {getattr(usual, name)}:
            parts.append(f", {code(f'features.{name}={values.pop()}')}")
    return "".join(parts)


def _runs(finished: Sequence[Row]) -> str:
    images = {row.category: row.n_test_normal + row.n_test_anomalous for row in finished}
    commits: dict[str, dict[str, None]] = {}
    for row in finished:
        written = commit(row.commit, dirty=row.dirty == "dirty")
        commits.setdefault(written, {})[text(row.category)] = None
    listed = ", ".join(f"{written} ({', '.join(names)})" for written, names in commits.items())
    of = f"commits {listed}" if len(commits) > 1 else f"commit {next(iter(commits))}"
    return f"{sum(images.values()):,} test images; {of}; run {days(r.started for r in finished)}"


def commit(digest: str, *, dirty: bool) -> str:
    """Write a commit, and whether the working tree differed from it."""
    return f"{code(digest[:10])}{' with uncommitted changes' if dirty else ''}"


def days(started: Iterable[str]) -> str:
    """Write when runs began."""
    found = sorted({text(time[:10]) for time in started})
    return f"on {found[0]}" if len(found) == 1 else f"from {found[0]} to {found[-1]}"


def _metrics(table: Table, finished: Sequence[Row]) -> list[str]:
    sentences = []
    if any(row.low for row in finished):
        sentences.append(
            "95 % interval of the image AUROC: BCa bootstrap of the test images"
            f" ({RESAMPLES:,} resamples, normal and anomalous images apart, within each category;"
            " the model stays as it is)."
        )
    sentences.append(
        f"{display('image_f1_max')}: best threshold on the test labels (an oracle);"
        " beside it the F1 of calling every image anomalous."
    )
    if any(METRICS[metric].level == "pixel" for metric in shown_metrics(finished)):
        localizer = code(str(expected(table.config, "localizer")))
        sentences.append(f"Pixel columns: {localizer} map, no interval.")
    return sentences
