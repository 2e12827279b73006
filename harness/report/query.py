"""A table of any runs, as `report show` prints it: what is asked for, and what a store has."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

import yaml

from harness.config import conf_dir
from harness.metrics.registry import HEADLINE, METRICS
from harness.record import Record, StoredRun
from harness.report.caption import commit, days
from harness.report.declaration import INTERVAL_METRIC, ReportError
from harness.report.facets import (
    CORE,
    DATA,
    MACHINE,
    Choice,
    Facets,
    Seen,
    check_choices,
    check_key,
    chosen,
    facets_of,
    in_words,
    natural,
    our_name,
    parse,
)
from harness.report.formats import code, latex, markdown, text
from harness.report.grid import (
    FAILED,
    TIMES,
    BySeed,
    Line,
    Measured,
    Pivot,
    display,
    grid_of_pivot,
    measure,
    numbers_of,
    of_type,
    timed,
)
from harness.report.html import page_of
from harness.report.rows import FINISHED, public_error, to_csv
from harness.report.selection import Read, preference, proven
from harness.report.stored import mean

METRIC, DEFECT_TYPE = "metric", "defect_type"
FORMATS = ("markdown", "csv", "html", "latex")
NOT_OFFICIAL = " (not official)"
_PARTS = ("rows", "columns", METRIC, "format")
_OF_SCORES = ("image_auroc", "image_average_precision", "image_f1_max")
_CATEGORY = ("category",)
_APART = (*DATA, MACHINE, "weights_digest", "identity", "model_factory", "backbone_factory")

Place = tuple[Line, Line]
"""Of a cell: its row and its column."""


@dataclass(frozen=True)
class Query:
    """What a table is asked to show."""

    rows: Line  # facets; `metric` and `defect_type` may be among them
    columns: Line
    metrics: Line  # several only where `metric` is an axis
    format: str
    choices: dict[str, Choice]

    @property
    def axes(self) -> Line:
        """The facets of rows and columns that runs have."""
        return tuple(key for key in (*self.rows, *self.columns) if key not in (METRIC, DEFECT_TYPE))

    @property
    def by_type(self) -> bool:
        """Whether normal test images are measured against those of one defect type at a time."""
        return DEFECT_TYPE in (*self.rows, *self.columns, *self.choices)

    @property
    def timed(self) -> bool:
        """Whether it shows times, which are of one machine."""
        return not TIMES.keys().isdisjoint(self.metrics)

    def asked(self, runs: Mapping[str, Facets]) -> dict[str, Facets]:
        """Return the runs that are chosen and have a place in the table."""
        kept = chosen(runs, [one for key, one in self.choices.items() if key != DEFECT_TYPE])
        return {key: run for key, run in kept.items() if all(axis in run for axis in self.axes)}


@dataclass(frozen=True)
class Found:
    """The runs of a table, with their scores, and its cells."""

    query: Query
    runs: tuple[StoredRun, ...]
    failed: tuple[StoredRun, ...]
    common: dict[str, str]  # what all of them have in common
    pivot: Pivot
    unofficial: set[Place]  # whose data are not the published dataset
    notes: tuple[str, ...]  # for the terminal


def search(arguments: Sequence[str], runs: Iterable[StoredRun], *, read: Read) -> Found:
    """Lay out the runs that `KEY=VALUE` arguments ask for, the newest of each cell."""
    newest = sorted(runs, key=preference, reverse=True)
    finished = {run.run_id: facets_of(run) for run in newest if run.status == FINISHED}
    if not finished:
        raise ReportError("the store has no finished run")
    query = query_of(arguments, list(finished.values()))
    kept = query.asked(finished)
    if not kept:
        raise ReportError(f"no finished run has all of {' '.join(arguments)}")
    seen = Seen(list(kept.values()), query.axes, timed=query.timed)
    seen.check()
    failed = [run for run in newest if run.status != FINISHED and run.record.settings]
    lost = query.asked({run.run_id: facets_of(run) for run in failed})
    kept |= {key: facets for key, facets in lost.items() if seen.agrees(facets)}
    places: dict[Line, list[StoredRun]] = {}
    for run in newest:
        if facets := kept.get(run.run_id):
            place = (*(facets[key] for key in query.axes), facets["seed"])
            places.setdefault(place, []).append(run)
    notes: list[str] = []

    def refuse(run: StoredRun, why: str) -> None:
        notes.append(f"run {run.run_id} of {run.record.category} is refused, {why}")

    shown = proven(places, read, refuse).values()
    several = sum(sum(one.status == FINISHED for one in runs) > 1 for runs in places.values())
    if several:
        notes.append(
            f"{several} of {len(places)} cells have several finished runs, the newest is shown"
        )
    return _found(query, shown, common=seen.common(), notes=notes)


def query_of(arguments: Iterable[str], finished: Sequence[Facets]) -> Query:
    """Read what is asked for; every key and value must be one that there is."""
    given = parse(arguments)
    known = dict.fromkeys(name for run in finished for name in run)
    for key in given:
        check_key(key, (*_PARTS, DEFECT_TYPE, *known), what="key")
    rows = tuple(map(our_name, given.get("rows", ("category",))))
    columns = tuple(map(our_name, given.get("columns", ("model",))))
    axes = (*rows, *columns)
    for key in axes:
        check_key(key, (*known, METRIC, DEFECT_TYPE), what="key of rows or columns")
    twice = [key for key in dict.fromkeys(axes) if axes.count(key) > 1]
    if twice:
        raise ReportError(f"rows and columns must have no key twice, got {', '.join(twice)}")
    metrics = given.get(METRIC, HEADLINE if METRIC in axes else (INTERVAL_METRIC,))
    formats = given.get("format", FORMATS[:1])
    for key in metrics:
        check_key(key, (*METRICS, *TIMES), what="metric")
    for key in formats:
        check_key(key, FORMATS, what="format")
    if len(metrics) > 1 and METRIC not in axes:
        raise ReportError(f"{len(metrics)} metrics need rows=metric or columns=metric")
    if len(formats) > 1:
        raise ReportError(f"format must be one of {', '.join(FORMATS)}, got {','.join(formats)}")
    choices = {key: Choice(key, value) for key, value in given.items() if key not in _PARTS}
    check_choices([one for key, one in choices.items() if key != DEFECT_TYPE], finished)
    query = Query(rows, columns, metrics, formats[0], choices)
    wrong = [metric for metric in metrics if metric not in _OF_SCORES]
    if query.by_type and wrong:
        raise ReportError(
            f"a defect type has no {', '.join(wrong)}; choose metric= from {', '.join(_OF_SCORES)}"
        )
    return query


def _found(
    query: Query, runs: Iterable[StoredRun], *, common: dict[str, str], notes: list[str]
) -> Found:
    runs = list(runs)
    finished = tuple(run for run in runs if run.status == FINISHED)
    cells: dict[Place, dict[int, Measured]] = {}
    unofficial: set[Place] = set()
    for run in runs:
        for place, value in _measured(query, run):
            cells.setdefault(place, {})[run.record.seed] = value
            if run.status == FINISHED and not run.record.official:
                unofficial.add(place)
    if not cells or not finished:
        raise ReportError("nothing is left to show")
    seeds = sorted({tuple(sorted(by_seed)) for by_seed in cells.values()})
    if "seed" not in query.axes and len(seeds) > 1:
        listed = " and ".join(",".join(map(str, one)) for one in seeds)
        notes.append(f"cells are of different seeds, {listed}: choose with seed=VALUE")
    failed = tuple(run for run in runs if run.status != FINISHED)
    pivot = _pivot(query, runs, cells=cells, unofficial=unofficial)
    return Found(query, finished, failed, common, pivot, unofficial, tuple(notes))


def _measured(query: Query, run: StoredRun) -> Iterator[tuple[Place, Measured]]:
    """Yield all that is shown of a run: by metric, and by defect type if that is asked for."""
    record, facets, wanted = run.record, facets_of(run), query.choices.get(DEFECT_TYPE)
    kinds = dict.fromkeys(image.defect_type for image in record.scores if image.anomalous)
    for metric in query.metrics:
        for kind in kinds if query.by_type else [""]:
            if not query.by_type:
                value = measure(record, metric, run.status)
            elif wanted is None or wanted.rank(kind) is not None:
                value = of_type(record.scores, metric, defect_type=kind)
            else:
                continue
            one = {**facets, METRIC: metric, DEFECT_TYPE: kind}
            row, column = (tuple(one[key] for key in keys) for keys in (query.rows, query.columns))
            yield (row, column), value


def _pivot(
    query: Query,
    runs: Sequence[StoredRun],
    *,
    cells: dict[Place, dict[int, Measured]],
    unofficial: set[Place],
) -> Pivot:
    """Order and name rows and columns."""
    declared = _declared({run.record.dataset for run in runs})
    marks = [_marks(cells, unofficial, side=side) for side in (0, 1)]
    if all(marks[0].values()):  # once is enough
        marks[1] = dict.fromkeys(marks[1], "")
    rows, columns = (
        {
            line: " · ".join(map(_words, keys, line, [side == 1] * len(keys))) + marks[side][line]
            for line in sorted(marks[side], key=_order(query, keys, declared))
        }
        for side, keys in enumerate((query.rows, query.columns))
    )
    by_category = _CATEGORY in (query.rows, query.columns)
    over = marks if query.columns == _CATEGORY else marks[:1]
    return Pivot(
        corner=" · ".join(map(_title, query.rows)),
        rows=rows,
        columns=columns,
        cells=cells,
        seeds=1 if "seed" in query.axes else len({run.record.seed for run in runs}),
        categories=len({*declared, *(r.record.category for r in runs)}) if by_category else 0,
        across=query.columns == _CATEGORY,
        average=f"Average{NOT_OFFICIAL * any(mark for side in over for mark in side.values())}",
    )


def _marks(cells: Mapping[Place, BySeed], unofficial: set[Place], *, side: int) -> dict[Line, str]:
    """Return the mark of each row, or of each column: of those that show no official data."""
    flags: dict[Line, set[bool]] = {}
    for place, by_seed in cells.items():
        states = flags.setdefault(place[side], set())
        if set(by_seed.values()) != {FAILED}:
            states.add(place in unofficial)
    return {line: NOT_OFFICIAL * (states == {True}) for line, states in flags.items()}


def _declared(names: set[str]) -> list[str]:
    """List the categories of published datasets."""
    found: list[str] = []
    for path in sorted((conf_dir() / "dataset").glob("*.yaml")):
        dataset = yaml.safe_load(path.read_text(encoding="utf-8"))
        if dataset["name"] in names and dataset.get("official", True):
            found += dataset["categories"]
    return found


def _order(
    query: Query, keys: Line, declared: Sequence[str]
) -> Callable[[Line], list[tuple[int, int, float, str, str]]]:
    """Sort as asked for, then categories as declared, then numbers, then words."""
    orders: dict[str, Sequence[str]] = {METRIC: query.metrics, "category": declared}

    def rank(key: str, value: str) -> tuple[int, int, float, str, str]:
        order, choice = orders.get(key, ()), query.choices.get(key)
        asked = (choice.rank(value) if choice else None) or 0
        place = order.index(value) if value in order else len(order)
        return asked, place, *natural(value), value

    return lambda line: list(map(rank, keys, line))


def _words(key: str, value: str, keyed: bool) -> str:
    if key == METRIC:
        return display(value)
    plain = not keyed or key in (*CORE[:4], DEFECT_TYPE)
    return in_words(key, value) if plain else f"{key} = {in_words(key, value)}"


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize() if key in (*CORE, METRIC, DEFECT_TYPE) else key


def render(found: Found, arguments: Sequence[str]) -> str:
    """Write a table in the format that was asked for; a CSV has no caption."""
    if found.query.format == "csv":
        return csv_of(found)
    grid, caption = grid_of_pivot(found.pivot), caption_of(found, arguments)
    if found.query.format == "latex":
        return latex("runs", grid, caption)
    return page_of(grid, caption) if found.query.format == "html" else markdown(grid, caption)


def csv_of(found: Found) -> str:
    """Write the cells as CSV at full precision, with a column for each of the rows' keys.

    Over several seeds, the cells hold means, and columns beside them the standard deviations.
    """
    pivot = found.pivot
    names = list(pivot.columns.values())
    if pivot.seeds > 1:
        names = [title for name in names for title in (name, f"{name}: standard deviation")]
    lines = [[*found.query.rows, "official", *names]]
    for row in pivot.rows:
        flags = {(row, column) in found.unofficial for column in pivot.columns}
        official = "mixed" if len(flags) > 1 else str(flags != {True}).lower()
        numbers = [cell for by_seed in pivot.line(row) for cell in _exact(by_seed, pivot.seeds)]
        lines.append([*row, official, *numbers])
    return to_csv(lines)


def _exact(by_seed: BySeed, seeds: int) -> list[str]:
    values = numbers_of(by_seed)
    if len(values) < seeds:
        return [FAILED if FAILED in by_seed.values() else "", *[""] * (seeds > 1)]
    return [repr(mean(values)), *([repr(stdev(values))] if seeds > 1 else [])]


def caption_of(found: Found, arguments: Sequence[str]) -> str:
    """Write in Markdown what all runs have in common, and how to print the table again."""
    query, records = found.query, [run.record for run in found.runs]
    command = code(shlex.join(["python", "-m", "harness.report", "show", *arguments]))
    commits = dict.fromkeys(commit(run.commit, dirty=run.dirty) for run in found.runs)
    when = days(run.started for run in found.runs)
    several = "commits" if len(commits) > 1 else "commit"
    sentences = [
        f"{_what(found)}; {_fixed(found)}; {several} {', '.join(commits)};"
        f" {len(found.runs)} runs {when} by {command}."
    ]
    oracles = [METRICS[m].display for m in query.metrics if m in METRICS and METRICS[m].oracle]
    if oracles:
        sentences.append(f"{', '.join(oracles)}: best threshold on the test labels (an oracle).")
    if query.timed:
        machines = dict.fromkeys(code(facets_of(run)[MACHINE]) for run in found.runs)
        sentences += timed(query.metrics, machines)
    for run in found.failed:
        of = run.record
        job = text(f"{of.dataset}/{of.category}, {of.model}, seed {of.seed}")
        sentences.append(f"{job} failed: {code(public_error(run))}.")
    own = dict.fromkeys(f"{one.dataset}/{one.category}" for one in records if not one.official)
    if own:
        sentences.append(f"Not official: {', '.join(map(text, own))} (not the published data).")
    sentences += map(_counted, records)
    return " ".join(filter(None, dict.fromkeys(sentences)))


def _counted(record: Record) -> str:
    """Write how many images of a dataset were left out on purpose, and how many are duplicates."""
    counts = {"left out": record.n_left_out, "with the bytes of another one": record.n_duplicates}
    written = ", ".join(f"{what}: {count}" for what, count in counts.items() if count)
    category = text(f"{record.dataset}/{record.category}")
    return f"{category}, images {written}." if written else ""


def _what(found: Found) -> str:
    names = ", ".join(map(display, found.query.metrics))
    types = ", normal test images against one defect type" if found.query.by_type else ""
    if (count := found.pivot.seeds) == 1:
        return f"{names}{types}"
    seeds = sorted({run.record.seed for run in (*found.runs, *found.failed)})
    listed = ", ".join(map(str, seeds))
    return f"{names}{types}, mean ± standard deviation over {count} seeds ({listed})"


def _fixed(found: Found) -> str:
    runs = [run.record for run in found.runs]
    common = {key: value for key, value in found.common.items() if value != "None"}
    named = [code(f"{key}={value}") for key, value in common.items() if key not in _APART]
    factories = sorted({name for r in runs for name in (r.model_factory, r.backbone_factory)})
    own = [name for name in factories if not name.startswith(("dfkde.", "dfkde:"))]
    sets = sorted({(r.backbone, r.weights_digest[:12]) for r in runs})
    weights = [
        f"weights {code(digest)}" + (f" of {text(backbone)}" if len(sets) > 1 else "")
        for backbone, digest in sets
    ]
    if "data_fingerprint" in common:
        weights.append(f"data {code(common['data_fingerprint'][:12])}")
    seeds = {r.seed for r in runs}
    if len(seeds) == 1 and "seed" not in found.query.axes:
        named.append(code(f"seed={seeds.pop()}"))
    return ", ".join([*named, *weights, *(f"built by {code(name)}" for name in own)])
