"""A table of whatever a store holds: which runs it shows, and what of them stands in which cell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

import yaml

from harness.config import conf_dir
from harness.metrics.registry import HEADLINE, METRICS
from harness.record import StoredRun
from harness.report.declaration import ReportError
from harness.report.formats import code, latex, markdown, text
from harness.report.grid import (
    ABSENT,
    FAILED,
    MAIN,
    MILLISECONDS,
    TIMED,
    UNDEFINED,
    Grid,
    model_ms,
    of_type,
    spread,
)
from harness.report.html import page_of
from harness.report.rows import FINISHED, public, to_csv
from harness.report.selection import (
    CORE,
    DATA,
    MACHINE,
    Choice,
    Facets,
    Read,
    Seen,
    check_choices,
    check_key,
    chosen,
    facets_of,
    in_words,
    natural,
    our_name,
    parse,
    with_scores,
)
from harness.report.stored import mean

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
    """What a table is asked to show."""

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
    """The runs of a table and its cells."""

    request: Request
    runs: tuple[StoredRun, ...]
    common: dict[str, str]
    failed: tuple[StoredRun, ...]
    cells: dict[tuple[Line, Line], dict[int, Measured]]
    unofficial: set[tuple[Line, Line]]
    notes: tuple[str, ...]


def pivot(arguments: Sequence[str], runs: Iterable[StoredRun], *, read: Read) -> Pivot:
    """Lay runs out in rows and columns."""
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
    shown = tuple(_newest(of_cell.values(), read, notes))
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


def _newest(cells: Iterable[list[StoredRun]], read: Read, notes: list[str]) -> Iterator[StoredRun]:
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
    """Return a number of a run, or why there is none."""
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


NOT_OFFICIAL = " (not official)"
_CATEGORY = ("category",)
_UNTOLD = (*DATA, MACHINE, "weights_digest", "identity", "model_factory", "backbone_factory")

BySeed = Mapping[int, Measured]


def render(pivot: Pivot, arguments: Sequence[str]) -> str:
    """Write a table in the format that was asked for; a CSV has no caption."""
    if pivot.request.format == "csv":
        return csv_of_pivot(pivot)
    grid, caption = grid_of_pivot(pivot), caption_of_pivot(pivot, arguments)
    if pivot.request.format == "latex":
        return latex("runs", grid, caption)
    return page_of(grid, caption) if pivot.request.format == "html" else markdown(grid, caption)


def grid_of_pivot(pivot: Pivot) -> Grid:
    """Lay the cells out as text: means over seeds, with their deviation, and averages."""
    rows, columns = lines_of(pivot)
    seeds = seeds_of(pivot)
    body = [
        (
            " · ".join(_label(pivot, pivot.request.rows, row)) + rows[row],
            *(_text(pivot.cells.get((row, column), {}), seeds) for column in columns),
        )
        for row in rows
    ]
    header = [" · ".join(map(_title, pivot.request.rows))]
    header += [
        " · ".join(_label(pivot, pivot.request.columns, column, keyed=True)) + columns[column]
        for column in columns
    ]
    average: tuple[str, ...] = ()
    if pivot.request.rows == _CATEGORY:
        lines = [[pivot.cells.get((row, column), {}) for row in rows] for column in columns]
        mark = NOT_OFFICIAL if any(rows.values()) else ""
        average = (f"Average{mark}", *(_average(pivot, line) for line in lines))
    elif pivot.request.columns == _CATEGORY:
        lines = [[pivot.cells.get((row, column), {}) for column in columns] for row in rows]
        mark = NOT_OFFICIAL if any((*rows.values(), *columns.values())) else ""
        header.append(f"Average{mark}")
        body = [(*cells, _average(pivot, line)) for cells, line in zip(body, lines, strict=True)]
    return Grid(tuple(header), tuple(body), average)


def csv_of_pivot(pivot: Pivot) -> str:
    """Write the cells as CSV at full precision, with a column for each of the rows' keys.

    Over several seeds, the cells hold means, and columns beside them the standard deviations.
    """
    rows, columns = lines_of(pivot)
    seeds = seeds_of(pivot)
    names = [
        " · ".join(_label(pivot, pivot.request.columns, column, keyed=True)) + columns[column]
        for column in columns
    ]
    if len(seeds) > 1:
        names = [title for name in names for title in (name, f"{name}: standard deviation")]
    lines = [[*pivot.request.rows, "official", *names]]
    for row in rows:
        flags = {(row, column) in pivot.unofficial for column in columns}
        line = [*row, "mixed" if len(flags) > 1 else str(flags != {True}).lower()]
        for column in columns:
            line += _numbers(pivot.cells.get((row, column), {}), seeds)
        lines.append(line)
    return to_csv(lines)


def lines_of(pivot: Pivot) -> tuple[dict[Line, str], dict[Line, str]]:
    """List rows and columns in order, each with its mark where all its data are not official."""
    keys = (pivot.request.rows, pivot.request.columns)
    marks = [_marks(pivot, axis, side) for side, axis in enumerate(keys)]
    if all(marks[0].values()):  # once is enough
        marks[1] = dict.fromkeys(marks[1], "")
    rows, columns = (
        {line: those[line] for line in sorted(those, key=lambda x: _rank(pivot, axis, x))}
        for those, axis in zip(marks, keys, strict=True)
    )
    return rows, columns


def _marks(pivot: Pivot, keys: Line, side: int) -> dict[Line, str]:
    flags: dict[Line, set[bool]] = {}
    for place, by_seed in pivot.cells.items():
        told = flags.setdefault(place[side], set())
        if set(by_seed.values()) != {FAILED}:
            told.add(place in pivot.unofficial)
    return {line: NOT_OFFICIAL if those == {True} else "" for line, those in flags.items()}


def _rank(pivot: Pivot, keys: Line, line: Line) -> tuple[tuple[int, int, float, str, str], ...]:
    """Sort as asked for, then categories as declared, then numbers, then words."""
    return tuple(_rank_of(pivot, key, value) for key, value in zip(keys, line, strict=True))


def _rank_of(pivot: Pivot, key: str, value: str) -> tuple[int, int, float, str, str]:
    order: Sequence[str] = ()
    if key == METRIC:
        order = pivot.request.metrics
    elif key == "category":
        order = declared(pivot)
    choice = pivot.request.choices.get(key)
    asked = (choice.rank(value) if choice else None) or 0
    place = order.index(value) if value in order else len(order)
    return asked, place, *natural(value), value


def declared(pivot: Pivot) -> list[str]:
    """List the categories of the published datasets that are shown."""
    names = {run.record.dataset for run in (*pivot.runs, *pivot.failed)}
    found: list[str] = []
    for path in sorted((conf_dir() / "dataset").glob("*.yaml")):
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        if told["name"] in names and told.get("official", True):
            found += told["categories"]
    return found


def seeds_of(pivot: Pivot) -> list[int]:
    """List the seeds that each cell should have; one where seeds are rows or columns."""
    if "seed" in pivot.request.axes:
        return [0]
    return sorted({run.record.seed for run in (*pivot.runs, *pivot.failed)})


def _values(by_seed: BySeed) -> list[float]:
    return [value for _, value in sorted(by_seed.items()) if isinstance(value, float)]


def _text(by_seed: BySeed, seeds: Sequence[int]) -> str:
    if values := _values(by_seed):
        return spread(values, len(seeds))
    return next((why for why in (FAILED, UNDEFINED) if why in by_seed.values()), ABSENT)


def _numbers(by_seed: BySeed, seeds: Sequence[int]) -> list[str]:
    values = _values(by_seed)
    if len(values) < len(seeds):
        return [FAILED if FAILED in by_seed.values() else "", *[""] * (len(seeds) > 1)]
    return [repr(mean(values)), *([repr(stdev(values))] if len(values) > 1 else [])]


def _average(pivot: Pivot, line: Sequence[BySeed]) -> str:
    """Average over categories for each seed, then spread over seeds; never with a gap."""
    seeds = seeds_of(pivot)
    known = [values for by_seed in line if len(values := _values(by_seed)) == len(seeds)]
    expected = len({*declared(pivot), *_categories(pivot)})
    if len(known) < expected:
        return f"{ABSENT} ({len(known)}/{expected})"
    return spread([mean(values) for values in zip(*known, strict=True)], len(seeds))


def _categories(pivot: Pivot) -> set[str]:
    return {run.record.category for run in (*pivot.runs, *pivot.failed)}


def _label(pivot: Pivot, keys: Line, line: Line, *, keyed: bool = False) -> list[str]:
    return [_words(key, value, keyed=keyed) for key, value in zip(keys, line, strict=True)]


def _words(key: str, value: str, *, keyed: bool) -> str:
    if key == METRIC:
        return _display(value)
    plain = not keyed or key in CORE[:4] or key == "defect_type"
    return in_words(key, value) if plain else f"{key} = {in_words(key, value)}"


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize() if key in (*CORE, METRIC, "defect_type") else key


def _display(metric: str) -> str:
    return MILLISECONDS if metric == MODEL_MS else METRICS[metric].display


def caption_of_pivot(pivot: Pivot, arguments: Sequence[str]) -> str:
    """Write in Markdown what all runs have in common, and how to print the table again."""
    command = code(shlex.join(["python", "-m", "harness.report", "show", *arguments]))
    sentences = [
        f"{_what(pivot)}; {_fixed(pivot)}; {_trace(pivot.runs)} by {command}.",
        *_protocol(pivot),
        *_failures(pivot.failed),
        *_not_official(pivot.runs),
    ]
    return " ".join(sentences)


def _what(pivot: Pivot) -> str:
    seeds = seeds_of(pivot)
    names = ", ".join(map(_display, pivot.request.metrics))
    types = ", normal test images against one defect type" if pivot.request.by_type else ""
    if len(seeds) == 1:
        return f"{names}{types}"
    listed = ", ".join(map(str, seeds))
    return f"{names}{types}, mean ± standard deviation over {len(seeds)} seeds ({listed})"


def _fixed(pivot: Pivot) -> str:
    runs = [run.record for run in pivot.runs]
    told = {key: value for key, value in pivot.common.items() if value != "None"}
    named = [code(f"{key}={value}") for key, value in told.items() if key not in _UNTOLD]
    factories = sorted({name for r in runs for name in (r.model_factory, r.backbone_factory)})
    own = [name for name in factories if not name.startswith(("dfkde.", "dfkde:"))]
    sets = sorted({(r.backbone, r.weights_digest[:12]) for r in runs})
    weights = [f"weights {code(w)}{_of(b, alone=len(sets) == 1)}" for b, w in sets]
    if "data_fingerprint" in told:
        weights.append(f"data {code(told['data_fingerprint'][:12])}")
    seeds = {r.seed for r in runs}
    if len(seeds) == 1 and "seed" not in pivot.request.axes:
        named.append(code(f"seed={seeds.pop()}"))
    return ", ".join([*named, *weights, *(f"built by {code(name)}" for name in own)])


def _of(backbone: str, *, alone: bool) -> str:
    return "" if alone else f" of {text(backbone)}"


def _trace(runs: Sequence[StoredRun]) -> str:
    changed = {True: " with uncommitted changes", False: ""}
    commits = dict.fromkeys(f"{code(run.commit[:10])}{changed[run.dirty]}" for run in runs)
    days = sorted({text(run.started[:10]) for run in runs})
    when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
    several = "commits" if len(commits) > 1 else "commit"
    return f"{several} {', '.join(commits)}; {len(runs)} runs {when}"


def _protocol(pivot: Pivot) -> list[str]:
    metrics, sentences = pivot.request.metrics, []
    oracles = [
        METRICS[name].display for name in metrics if name in METRICS and METRICS[name].oracle
    ]
    if oracles:
        sentences.append(f"{', '.join(oracles)}: best threshold on the test labels (an oracle).")
    if MODEL_MS in metrics:
        machines = dict.fromkeys(code(facets_of(run)[MACHINE]) for run in pivot.runs)
        sentences.append(f"{MILLISECONDS}: {TIMED}, on {', '.join(machines)}.")
    return sentences


def _failures(failed: Iterable[StoredRun]) -> list[str]:
    reasons = {
        _job(run): public(" ".join((run.error or "").split()), run.record.category)
        for run in failed
    }
    return [f"{text(job)} failed: {code(reason)}." for job, reason in reasons.items()]


def _job(run: StoredRun) -> str:
    record = run.record
    return f"{record.dataset}/{record.category}, {record.model}, seed {record.seed}"


def _not_official(runs: Iterable[StoredRun]) -> list[str]:
    records = [run.record for run in runs if not run.record.official]
    names = dict.fromkeys(f"{one.dataset}/{one.category}" for one in records)
    if not names:
        return []
    return [f"Not official: {', '.join(map(text, names))} (not the published data)."]
