"""A table of whatever a store holds: which runs it shows, and what of them stands in which cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.metrics import image_metrics
from harness.metrics.registry import HEADLINE, METRICS
from harness.record import ImageScore, StoredRun
from harness.report.facets import (
    Choice,
    Facets,
    Seen,
    check_choices,
    check_key,
    chosen,
    facets_of,
    our_name,
    parse,
)
from harness.report.grid import ABSENT, FAILED, MAIN, UNDEFINED, model_ms
from harness.report.row import FINISHED
from harness.report.select import Read, with_scores
from harness.report.table import ReportError

METRIC, DEFECT_TYPE = "metric", "defect_type"
MODEL_MS = "model_ms"
"""Milliseconds per image that fitting the model and scoring with it took."""
FORMATS = ("markdown", "csv", "html", "latex")
_PARTS = ("rows", "columns", METRIC, "format")
_OF_SCORES = ("image_auroc", "image_average_precision", "image_f1_max")
_CHOOSABLE = (*METRICS, MODEL_MS)

Line = tuple[str, ...]
"""The values of a row or of a column, one for each of its keys."""

Measured = float | str
"""A value, or why there is none: `FAILED`, `UNDEFINED` or `ABSENT`."""


@dataclass(frozen=True)
class Request:
    """What a table is asked to show.

    Attributes
    ----------
    rows, columns : tuple of str
        The facets that its rows and columns are; `metric` and `defect_type` may be among them.
    metrics : tuple of str
        Names of `METRICS`, or `model_ms`; several only where `metric` is an axis.
    format : str
        One of `FORMATS`.
    choices : dict of str to Choice
        Which runs, by facet.
    """

    rows: Line
    columns: Line
    metrics: Line
    format: str
    choices: dict[str, Choice]

    @property
    def axes(self) -> Line:
        """The facets of rows and columns that runs have."""
        return tuple(key for key in (*self.rows, *self.columns) if key not in (METRIC, DEFECT_TYPE))

    @property
    def by_type(self) -> bool:
        """Whether normal test images are told from those of one defect type at a time."""
        return DEFECT_TYPE in (*self.rows, *self.columns, *self.choices)


@dataclass(frozen=True)
class Pivot:
    """The runs of a table and its cells.

    Attributes
    ----------
    request : Request
        What was asked.
    runs : tuple of StoredRun
        Those that are shown, with their scores.
    common : dict of str to str
        What all of them have in common.
    failed : tuple of StoredRun
        Failed runs, each in place of a run that nobody finished.
    cells : dict
        By row, column and seed.
    unofficial : set
        Row and column of those cells whose data are not the published dataset.
    notes : tuple of str
        What a reader of the terminal should know.
    """

    request: Request
    runs: tuple[StoredRun, ...]
    common: dict[str, str]
    failed: tuple[StoredRun, ...]
    cells: dict[tuple[Line, Line], dict[int, Measured]]
    unofficial: set[tuple[Line, Line]]
    notes: tuple[str, ...]


def pivot(arguments: Sequence[str], runs: Iterable[StoredRun], *, read: Read) -> Pivot:
    """Lay runs out in rows and columns.

    Parameters
    ----------
    arguments : sequence of str
        `KEY=VALUE`: `rows`, `columns`, `metric`, `format`, and facets that runs must have.
    runs : iterable of StoredRun
        Every run of a store, in any order.
    read : callable
        Reads the record that a run has kept, with its scores.

    Raises
    ------
    ReportError
        In one line: an argument is wrong, no run is left, or runs differ otherwise than by the
        rows' and columns' keys.
    """
    newest = sorted(runs, key=lambda run: (run.started, run.run_id), reverse=True)
    finished = {run.run_id: facets_of(run) for run in newest if run.status == FINISHED}
    if not finished:
        raise ReportError("the store has no finished run")
    request = request_of(arguments, list(finished.values()))
    kept = _asked(request, finished)
    if not kept:
        raise ReportError(f"no finished run has all of {' '.join(arguments)}")
    seen = Seen(kept.values(), request.axes, timed=MODEL_MS in request.metrics)
    seen.check()
    of_cell: dict[Line, list[StoredRun]] = {}
    for run in newest:
        if run.run_id in kept:
            of_cell.setdefault(_place(request, kept[run.run_id]), []).append(run)
    notes: list[str] = []
    shown = tuple(_believed(of_cell.values(), read, notes))
    lost = _lost(request, newest, seen=seen, known=set(of_cell))
    cells, unofficial = _cells(request, (*shown, *lost))
    notes += _uneven(request, cells.values())
    return Pivot(request, shown, seen.common(), lost, cells, unofficial, tuple(notes))


def request_of(arguments: Iterable[str], finished: Sequence[Facets]) -> Request:
    """Read what is asked for; every key and value must be one that there is."""
    given = parse(arguments)
    told = dict.fromkeys(name for run in finished for name in run)
    for key in given:
        check_key(key, (*_PARTS, DEFECT_TYPE, *told), what="key")
    lines = {
        part: tuple(map(our_name, given.get(part, (usual,))))
        for part, usual in (("rows", "category"), ("columns", "model"))
    }
    axes = (*lines["rows"], *lines["columns"])
    for key in axes:
        check_key(key, (*told, METRIC, DEFECT_TYPE), what="key of rows or columns")
    twice = [key for key in dict.fromkeys(axes) if axes.count(key) > 1]
    if twice:
        raise ReportError(f"rows and columns must have no key twice, got {', '.join(twice)}")
    metrics = given.get(METRIC, HEADLINE if METRIC in axes else (MAIN,))
    format_ = given.get("format", FORMATS[:1])
    for key in metrics:
        check_key(key, _CHOOSABLE, what="metric")
    for key in format_:
        check_key(key, FORMATS, what="format")
    if len(metrics) > 1 and METRIC not in axes:
        raise ReportError(f"{len(metrics)} metrics need rows=metric or columns=metric")
    if len(format_) > 1:
        raise ReportError(f"format must be one of {', '.join(FORMATS)}, got {','.join(format_)}")
    choices = {key: Choice(key, value) for key, value in given.items() if key not in _PARTS}
    check_choices([one for key, one in choices.items() if key != DEFECT_TYPE], finished)
    request = Request(lines["rows"], lines["columns"], metrics, format_[0], choices)
    _check_types(request)
    return request


def _check_types(request: Request) -> None:
    wrong = [metric for metric in request.metrics if metric not in _OF_SCORES]
    if request.by_type and wrong:
        raise ReportError(
            f"a defect type has no {', '.join(wrong)}; choose metric= from {', '.join(_OF_SCORES)}"
        )


def _asked(request: Request, runs: Mapping[str, Facets]) -> dict[str, Facets]:
    kept = chosen(runs, [one for key, one in request.choices.items() if key != DEFECT_TYPE])
    return {key: run for key, run in kept.items() if all(axis in run for axis in request.axes)}


def _place(request: Request, run: Facets) -> Line:
    """Return what distinguishes the runs of a table: at most one of each place is shown."""
    return (*(run[key] for key in request.axes), run["seed"])


def _believed(
    cells: Iterable[list[StoredRun]], read: Read, notes: list[str]
) -> Iterator[StoredRun]:
    """Yield the newest run of each cell whose scores prove its metrics."""
    total = more = 0
    for runs in cells:
        total, more = total + 1, more + (len(runs) > 1)
        for run in runs:
            try:
                yield with_scores(run, read)
                break
            except ValueError as error:
                notes.append(f"run {run.run_id} of {run.record.category} is refused, {error}")
    if more:
        notes.append(f"{more} of {total} cells have several finished runs, the newest is shown")


def _lost(
    request: Request, newest: Iterable[StoredRun], *, seen: Seen, known: set[Line]
) -> tuple[StoredRun, ...]:
    """Return the newest failed run of each cell that no run finished."""
    failed = {run.run_id: run for run in newest if run.status != FINISHED and run.record.settings}
    lost: dict[Line, StoredRun] = {}
    for key, one in _asked(request, {key: facets_of(run) for key, run in failed.items()}).items():
        if seen.agrees(one) and _place(request, one) not in known:
            lost.setdefault(_place(request, one), failed[key])
    return tuple(lost.values())


def _cells(
    request: Request, runs: Iterable[StoredRun]
) -> tuple[dict[tuple[Line, Line], dict[int, Measured]], set[tuple[Line, Line]]]:
    cells: dict[tuple[Line, Line], dict[int, Measured]] = {}
    unofficial = set()
    for run in runs:
        for extra in _extras(request, run):
            one = {**facets_of(run), **extra}
            row, column = (tuple(one[k] for k in keys) for keys in (request.rows, request.columns))
            value = measure(run, extra[METRIC], extra.get(DEFECT_TYPE))
            cells.setdefault((row, column), {})[run.record.seed] = value
            if run.status == FINISHED and not run.record.official:
                unofficial.add((row, column))
    if not cells:
        raise ReportError("nothing is left to show")
    return cells, unofficial


def _uneven(request: Request, cells: Iterable[Mapping[int, Measured]]) -> list[str]:
    """Tell that cells are of different seeds, which leaves some without a mean."""
    seeds = {tuple(sorted(by_seed)) for by_seed in cells}
    if "seed" in request.axes or len(seeds) < 2:
        return []
    listed = " and ".join(",".join(map(str, one)) for one in sorted(seeds))
    return [f"cells are of different seeds, {listed}: choose with seed=VALUE"]


def _extras(request: Request, run: StoredRun) -> Iterator[Mapping[str, str]]:
    """Yield metric, and defect type, of all that is shown of a run."""
    for metric in request.metrics:
        if not request.by_type:
            yield {METRIC: metric}
            continue
        types = dict.fromkeys(image.defect_type for image in run.record.scores if image.anomalous)
        wanted = request.choices.get(DEFECT_TYPE)
        for name in types:
            if wanted is None or wanted.rank(name) is not None:
                yield {METRIC: metric, DEFECT_TYPE: name}


def measure(run: StoredRun, metric: str, defect_type: str | None = None) -> Measured:
    """Return a number of a run, or why there is none.

    Parameters
    ----------
    run : StoredRun
        With its scores, where a defect type is asked for.
    metric : str
        Of `METRICS`, or `model_ms`.
    defect_type : str, optional
        Measures the normal test images against the anomalous ones of this type alone.
    """
    record = run.record
    if run.status != FINISHED:
        return FAILED
    if defect_type is not None:
        return of_type(record.scores, metric, defect_type=defect_type)
    if metric == MODEL_MS:
        images = record.n_train + record.n_test_normal + record.n_test_anomalous
        value = model_ms(record.durations, images)
        return ABSENT if value is None else value
    if metric in record.metrics:
        return record.metrics[metric]
    return UNDEFINED if metric in record.undefined else ABSENT


def of_type(scores: Sequence[ImageScore], metric: str, *, defect_type: str) -> Measured:
    """Measure the normal test images against the anomalous ones of one defect type."""
    images = [i for i in scores if not i.anomalous or i.defect_type == defect_type]
    labels = [image.anomalous for image in images]
    values = image_metrics(labels, [image.score for image in images]).values
    return values.get(metric, UNDEFINED)
