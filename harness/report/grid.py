"""A table as text cells, whatever the output: shared by Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

from harness.metrics.registry import HEADLINE, METRICS
from harness.record import ImageScore
from harness.report.declaration import Table
from harness.report.rows import INTERVAL_METRIC, Row
from harness.report.selection import axis_value
from harness.report.stored import TableResults, mean

ABSENT = "–"
UNDEFINED = "n/a"
FAILED = "failed"
INTERVAL = "95 % interval"
TRIVIAL = "F1, all anomalous"
PRECISION = "image_average_precision"
MILLISECONDS = "Model, ms per image"
TIMED = "to fit the model and to score with it, without features, by training and test images"
MAIN = INTERVAL_METRIC
"""The metric of a table that has room for one."""


@dataclass(frozen=True)
class Grid:
    """A finished table of text."""

    header: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    average: tuple[str, ...]


def grid_of(table: Table, results: TableResults) -> Grid:
    """Lay a table out in its declared order, with the averages of complete columns."""
    return _headline(table, results) if table.headline else _spread(table, results.rows)


def wide_grid_of(table: Table, results: TableResults) -> Grid:
    """Lay a table out as `grid_of`, with average precision and the model's time beside it."""
    grid = grid_of(table, results)
    if not table.headline:
        return grid
    by_category = {row.category: row for row in results.rows}
    rows = [by_category.get(category) for category in table.categories]
    lines = (grid.header, *grid.body, grid.average)
    more = zip(
        lines, _metric_column(PRECISION, rows, results), _milliseconds_column(rows), strict=True
    )
    header, *body, average = ((*line, precision, ms) for line, precision, ms in more)
    return Grid(header, tuple(body), average)


def number(value: float) -> str:
    """Print a metric as a fraction with three decimals."""
    return f"{value:.3f}"


def limits(low: float | None, high: float | None) -> str:
    """Print an interval, or that there is none."""
    return ABSENT if low is None or high is None else f"{number(low)} to {number(high)}"


def model_ms(seconds: Mapping[str, float], images: int) -> float | None:
    """Compute the milliseconds per image of fitting the model and scoring with it."""
    return 1000 * seconds["model"] / images if "model" in seconds else None


def signed(value: float) -> str:
    """Print a difference with its sign."""
    return f"{value:+.3f}"


def trivial_f1(row: Row) -> float:
    """Compute the F1 of calling every test image anomalous: what any Image F1 must beat.

    The recall is 1 and the precision the share of anomalous images.
    """
    return 2 * row.n_test_anomalous / (2 * row.n_test_anomalous + row.n_test_normal)


def shown_metrics(rows: Sequence[Row]) -> tuple[str, ...]:
    """Leave out the headline metrics that no finished job could define: no masks, no pixels."""
    finished = [row for row in rows if row.finished]
    return tuple(
        metric
        for metric in HEADLINE
        if not finished or any(metric not in row.undefined for row in finished)
    )


def _headline(table: Table, results: TableResults) -> Grid:
    by_category = {row.category: row for row in results.rows}
    rows = [by_category.get(category) for category in table.categories]
    columns = [_metric_column(metric, rows, results) for metric in shown_metrics(results.rows)]
    columns.insert(1, _interval_column(rows, results))
    columns.insert(3, _trivial_column(rows))
    return Grid(
        header=("Category", *(column[0] for column in columns)),
        body=tuple(
            (category, *(column[1 + line] for column in columns))
            for line, category in enumerate(table.categories)
        ),
        average=("Average", *(column[-1] for column in columns)),
    )


def _metric_column(
    metric: str, rows: Sequence[Row | None], results: TableResults
) -> tuple[str, ...]:
    last = average_cell(metric, results, categories=len(rows))
    return (METRICS[metric].display, *(metric_cell(row, metric) for row in rows), last)


def average_cell(metric: str, results: TableResults, *, categories: int) -> str:
    """Print the average of a complete column, and of any other how many values there are."""
    average = results.averages.get(metric)
    known = sum(metric in row.metric for row in results.rows)
    return number(average.value) if average else f"{ABSENT} ({known}/{categories})"


def metric_cell(row: Row | None, metric: str) -> str:
    """Print a job's metric, or why there is none."""
    if row is None:
        return ABSENT
    if not row.finished:
        return FAILED
    if metric in row.metric:
        return number(row.metric[metric])
    return UNDEFINED if metric in row.undefined else ABSENT


def _interval_column(rows: Sequence[Row | None], results: TableResults) -> tuple[str, ...]:
    average = results.averages.get(MAIN)
    cells = [limits(row.low.get(MAIN), row.high.get(MAIN)) if row else ABSENT for row in rows]
    last = limits(average.low, average.high) if average else ABSENT
    return (INTERVAL, *cells, last)


def _trivial_column(rows: Sequence[Row | None]) -> tuple[str, ...]:
    values = [trivial_f1(row) if row is not None and row.finished else None for row in rows]
    cells = [ABSENT if value is None else number(value) for value in values]
    known = [value for value in values if value is not None]
    last = number(mean(known)) if len(known) == len(rows) else ABSENT
    return (TRIVIAL, *cells, last)


def _milliseconds_column(rows: Sequence[Row | None]) -> tuple[str, ...]:
    values = [
        model_ms(row.seconds, row.n_train + row.n_test_normal + row.n_test_anomalous)
        if row is not None and row.finished
        else None
        for row in rows
    ]
    known = [value for value in values if value is not None]
    count = f"{ABSENT} ({len(known)}/{len(rows)})"
    last = number(mean(known)) if len(known) == len(rows) else count
    return (MILLISECONDS, *(ABSENT if v is None else number(v) for v in values), last)


def _spread(table: Table, rows: Sequence[Row]) -> Grid:
    """Lay out one metric, mean and spread over seeds, with a column per swept value."""
    by_cell: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        by_cell.setdefault((row.category, axis_value(table, row.setting)), {})[row.seed] = row
    title = METRICS[MAIN].display
    header = tuple(f"{table.axis} = {value}" if table.axis else title for value in table.values)
    cells = {
        (category, value): by_cell.get((category, value), {})
        for category in table.categories
        for value in table.values
    }
    return Grid(
        header=("Category", *header),
        body=tuple(
            (category, *(_over_seeds(table, cells[category, value]) for value in table.values))
            for category in table.categories
        ),
        average=("Average", *(_average_over_seeds(table, cells, value) for value in table.values)),
    )


def _over_seeds(table: Table, by_seed: Mapping[int, Row]) -> str:
    if not by_seed:
        return ABSENT
    values = [row.metric[MAIN] for row in by_seed.values() if MAIN in row.metric]
    if not values and not any(row.finished for row in by_seed.values()):
        return FAILED
    return spread(values, len(table.seeds))


def _average_over_seeds(
    table: Table, cells: Mapping[tuple[str, str], Mapping[int, Row]], value: str
) -> str:
    """Average over categories for each seed, then spread over seeds."""
    averages = []
    for seed in table.seeds:
        rows = [cells[category, value].get(seed) for category in table.categories]
        known = [row.metric[MAIN] for row in rows if row is not None and MAIN in row.metric]
        if len(known) == len(rows):
            averages.append(mean(known))
    return spread(averages, len(table.seeds))


def spread(values: Sequence[float], expected: int) -> str:
    """Print a mean and its standard deviation over seeds; incomplete ones only as a count.

    Examples
    --------
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
    return f"{number(mean(values))} ± {number(stdev(values))}"


def tally(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[str]]:
    """Group the finished rows' categories by what a caption says of them."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.finished:
            names = groups.setdefault(key(row), [])
            if row.category not in names:
                names.append(row.category)
    return groups


def of_type(scores: Sequence[ImageScore], metric: str, *, defect_type: str) -> float | str:
    """Measure the normal test images against the anomalous ones of one defect type."""
    from harness.metrics import image_metrics

    images = [i for i in scores if not i.anomalous or i.defect_type == defect_type]
    labels = [image.anomalous for image in images]
    values = image_metrics(labels, [image.score for image in images]).values
    return values.get(metric, UNDEFINED)
