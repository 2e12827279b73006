"""A table of any runs, as `report show` prints it: what is asked for, and what a store has."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product, repeat
from statistics import fmean, stdev

import yaml

from harness.config import conf_dir
from harness.metrics.registry import HEADLINE, METRICS
from harness.record import Record, StoredRun
from harness.report import facets, layout
from harness.report.declaration import INTERVAL_METRIC, ReportError
from harness.report.facets import CORE, DATA, MACHINE, Choice, Facets, check_key, facets_of
from harness.report.formats import latex, markdown, page_of
from harness.report.layout import code, commit, days, text
from harness.report.results import FINISHED, to_csv
from harness.report.selection import Read, preference, proven

METRIC, DEFECT_TYPE = "metric", "defect_type"
FORMATS = ("markdown", "csv", "html", "latex")
NOT_OFFICIAL = " (not official)"
_PARTS = ("rows", "columns", METRIC, "format")
_OF_SCORES = ("image_auroc", "image_average_precision", "image_f1_max")
_CATEGORY = ("category",)
_APART = (*DATA, MACHINE, "weights_digest", "identity", "model_factory", "backbone_factory")

Place = tuple[layout.Line, layout.Line]
"""Of a cell: its row and its column."""


@dataclass(frozen=True)
class Query:
    """What a table is asked to show."""

    rows: layout.Line  # facets; `metric` and `defect_type` may be among them
    columns: layout.Line
    axes: layout.Line  # those of rows and columns that runs have
    metrics: layout.Line  # several only where `metric` is an axis
    format: str
    choices: dict[str, Choice]
    by_type: bool  # whether normal images are measured against those of one defect type at a time
    timed: bool  # whether it shows times, which are of one machine

    def places(self, runs: Sequence[StoredRun]) -> dict[layout.Line, list[StoredRun]]:
        """Sort the runs that are asked for by where they have a place, seeds apart."""
        choices = [one for key, one in self.choices.items() if key != DEFECT_TYPE]
        places: dict[layout.Line, list[StoredRun]] = {}
        for run, of in facets.chosen([(run, facets_of(run)) for run in runs], choices):
            place = tuple(of[key] for key in (*self.axes, "seed") if key in of)
            if len(place) > len(self.axes):
                places.setdefault(place, []).append(run)
        return places


@dataclass(frozen=True)
class RunTable:
    """The runs of a table, with their scores, and its cells."""

    query: Query
    runs: tuple[StoredRun, ...]
    common: dict[str, str]  # what all of them have in common
    pivot: layout.Pivot
    unofficial: set[Place]  # whose data are not the published dataset
    notes: tuple[str, ...]  # for the terminal


def search(arguments: Sequence[str], runs: Iterable[StoredRun], *, read: Read) -> RunTable:
    """Lay out the runs that `KEY=VALUE` arguments ask for, the newest of each cell."""
    newest = sorted(runs, key=preference, reverse=True)
    finished = [run for run in newest if run.status == FINISHED]
    if not finished:
        raise ReportError("the store has no finished run")
    query = query_of(arguments, list(map(facets_of, finished)))
    places = query.places(finished)
    if not places:
        raise ReportError(f"no finished run has all of {' '.join(arguments)}")
    asked = [facets_of(run) for those in places.values() for run in those]
    common = facets.in_common(asked, query.axes, timed=query.timed)
    picked, refused = proven(places, read)
    notes = [f"run {r.run_id} of {r.record.category} is refused, {why}" for r, why in refused]
    shown = tuple(picked.values())
    if several := sum(len(those) > 1 for those in places.values()):
        notes.append(
            f"{several} of {len(places)} cells have several finished runs, the newest is shown"
        )
    failed = query.places([r for r in newest if r.status != FINISHED and r.record.settings])
    if lost := [run for place, those in failed.items() if place not in places for run in those]:
        notes.append(f"{len(lost)} failed runs are not shown; the newest: {lost[0].error}")
    cells, unofficial = _cells(query, shown)
    seeds = sorted({tuple(sorted(by_seed)) for by_seed in cells.values()})
    if "seed" not in query.axes and len(seeds) > 1:
        listed = " and ".join(",".join(map(str, one)) for one in seeds)
        notes.append(f"cells are of different seeds, {listed}: choose with seed=VALUE")
    pivot = _pivot(query, shown, cells=cells, unofficial=unofficial)
    return RunTable(query, shown, common, pivot, unofficial, tuple(notes))


def query_of(arguments: Iterable[str], finished: Sequence[Facets]) -> Query:
    """Read what is asked for; every key and value must be one that there is."""
    given = facets.parse(arguments)
    known = dict.fromkeys(name for run in finished for name in run)
    for key in given:
        check_key(key, (*_PARTS, DEFECT_TYPE, *known), what="key")
    rows = tuple(map(facets.our_name, given.get("rows", ("category",))))
    columns = tuple(map(facets.our_name, given.get("columns", ("model",))))
    axes = (*rows, *columns)
    for key in axes:
        check_key(key, (*known, METRIC, DEFECT_TYPE), what="key of rows or columns")
    twice = [key for key in dict.fromkeys(axes) if axes.count(key) > 1]
    if twice:
        raise ReportError(f"rows and columns must have no key twice, got {', '.join(twice)}")
    metrics = given.get(METRIC, HEADLINE if METRIC in axes else (INTERVAL_METRIC,))
    kind = ",".join(given.get("format", FORMATS[:1]))
    for key in metrics:
        check_key(key, (*METRICS, *layout.TIMES), what="metric")
    check_key(kind, FORMATS, what="format")
    if len(metrics) > 1 and METRIC not in axes:
        raise ReportError(f"{len(metrics)} metrics need rows=metric or columns=metric")
    choices = {key: Choice(key, value) for key, value in given.items() if key not in _PARTS}
    facets.check_choices([one for key, one in choices.items() if key != DEFECT_TYPE], finished)
    by_type = DEFECT_TYPE in (*axes, *choices)
    if by_type and (wrong := [metric for metric in metrics if metric not in _OF_SCORES]):
        raise ReportError(
            f"a defect type has no {', '.join(wrong)}; choose metric= from {', '.join(_OF_SCORES)}"
        )
    of_runs = tuple(key for key in axes if key not in (METRIC, DEFECT_TYPE))
    timed = not layout.TIMES.keys().isdisjoint(metrics)
    return Query(rows, columns, of_runs, metrics, kind, choices, by_type, timed)


def _cells(
    query: Query, runs: Iterable[StoredRun]
) -> tuple[dict[Place, dict[int, layout.Measured]], set[Place]]:
    """Measure all that is shown, and name the places of data that are not official."""
    cells: dict[Place, dict[int, layout.Measured]] = {}
    unofficial: set[Place] = set()
    wanted = query.choices.get(DEFECT_TYPE)
    for run in runs:
        of, scores = facets_of(run), run.record.scores
        types = (
            dict.fromkeys(i.defect_type for i in scores if i.anomalous) if query.by_type else [""]
        )
        kinds = [kind for kind in types if wanted is None or wanted.rank(kind) is not None]
        for metric, kind in product(query.metrics, kinds):
            shown = {**of, METRIC: metric, DEFECT_TYPE: kind}
            row, column = (
                tuple(shown[key] for key in keys) for keys in (query.rows, query.columns)
            )
            cells.setdefault((row, column), {})[run.record.seed] = (
                layout.of_type(scores, metric, defect_type=kind)
                if query.by_type
                else layout.measure(run.record, metric, run.status)
            )
            if not run.record.official:
                unofficial.add((row, column))
    if not cells:
        raise ReportError("nothing is left to show")
    return cells, unofficial


def _pivot(
    query: Query,
    runs: Sequence[StoredRun],
    *,
    cells: dict[Place, dict[int, layout.Measured]],
    unofficial: set[Place],
) -> layout.Pivot:
    """Order and name rows and columns."""
    declared = _declared({run.record.dataset for run in runs})
    lines = [{place[side] for place in cells} for side in (0, 1)]
    marked = [lines[side] - {place[side] for place in cells.keys() - unofficial} for side in (0, 1)]
    if marked[0] == lines[0]:  # once is enough
        marked[1] = set()
    rank = partial(_rank, query, declared)

    def titles(keys: layout.Line, side: int) -> dict[layout.Line, str]:
        found = {}
        for line in sorted(lines[side], key=lambda line: list(map(rank, keys, line))):
            words = filter(None, map(_words, keys, line, repeat(side == 1)))
            found[line] = (" · ".join(words) or "none") + NOT_OFFICIAL * (line in marked[side])
        return found

    by_category = _CATEGORY in (query.rows, query.columns)
    over = marked if query.columns == _CATEGORY else marked[:1]
    words = (*CORE, METRIC, DEFECT_TYPE)
    corner = [key.replace("_", " ").capitalize() if key in words else key for key in query.rows]
    return layout.Pivot(
        corner=" · ".join(corner),
        rows=titles(query.rows, 0),
        columns=titles(query.columns, 1),
        cells=cells,
        seeds=1 if "seed" in query.axes else len({run.record.seed for run in runs}),
        categories=len({*declared, *(r.record.category for r in runs)}) if by_category else 0,
        across=query.columns == _CATEGORY,
        average=f"Average{NOT_OFFICIAL * any(over)}",
    )


def _declared(names: set[str]) -> list[str]:
    """List the categories of published datasets."""
    found: list[str] = []
    for path in sorted((conf_dir() / "dataset").glob("*.yaml")):
        dataset = yaml.safe_load(path.read_text(encoding="utf-8"))
        if dataset["name"] in names and dataset.get("official", True):
            found += dataset["categories"]
    return found


def _rank(query: Query, declared: Sequence[str], key: str, value: str) -> tuple[object, ...]:
    """Sort as asked for, then categories as declared, then numbers, then words."""
    orders: dict[str, Sequence[str]] = {METRIC: query.metrics, "category": declared}
    order, choice = orders.get(key, ()), query.choices.get(key)
    asked = (choice.rank(value) if choice else None) or 0
    place = order.index(value) if value in order else len(order)
    return asked, place, *facets.natural(value), value


def _words(key: str, value: str, keyed: bool) -> str:
    if (key, value) == ("localizer", "none") and not keyed:  # as of models on maps
        return ""
    written = layout.display(value) if key == METRIC else facets.in_words(key, value)
    return (
        f"{key} = {written}" if keyed and key not in (*CORE[:4], METRIC, DEFECT_TYPE) else written
    )


def render(found: RunTable, arguments: Sequence[str]) -> str:
    """Write a table in the format that was asked for; a CSV has no caption."""
    if found.query.format == "csv":
        return csv_of(found)
    grid, caption = layout.grid_of_pivot(found.pivot), caption_of(found, arguments)
    if found.query.format == "latex":
        return latex("runs", grid, caption)
    return page_of(grid, caption) if found.query.format == "html" else markdown(grid, caption)


def csv_of(found: RunTable) -> str:
    """Write the cells as CSV at full precision, with a column for each of the rows' keys.

    Over several seeds, the cells hold means, and columns beside them the standard deviations.
    """
    pivot, several = found.pivot, found.pivot.seeds > 1
    names = [
        [name, f"{name}: standard deviation"][: 1 + several] for name in pivot.columns.values()
    ]
    lines = [[*found.query.rows, "official", *chain(*names)]]
    for row in pivot.rows:
        flags = {(row, column) in found.unofficial for column in pivot.columns}
        line = [*row, "mixed" if len(flags) > 1 else str(flags != {True}).lower()]
        for values in map(layout.numbers_of, pivot.line(row)):
            whole = len(values) == pivot.seeds
            numbers = [fmean(values), stdev(values)] if whole and several else values[:1]
            line += map(repr, numbers) if whole else [""] * (1 + several)
        lines.append(line)
    return to_csv(lines)


def caption_of(found: RunTable, arguments: Sequence[str]) -> str:
    """Write in Markdown what all runs have in common, and how to print the table again."""
    query, records = found.query, [run.record for run in found.runs]
    command = code(shlex.join(["python", "-m", "harness.report", "show", *arguments]))
    commits = dict.fromkeys(commit(run.commit, dirty=run.dirty) for run in found.runs)
    when = days(run.started for run in found.runs)
    several = "commits" if len(commits) > 1 else "commit"
    what = ", ".join(map(layout.display, query.metrics))
    what += ", normal test images against one defect type" * query.by_type
    if found.pivot.seeds > 1:
        seeds = ", ".join(map(str, sorted({record.seed for record in records})))
        what += f", mean ± standard deviation over {found.pivot.seeds} seeds ({seeds})"
    sentences = [
        f"{what}; {_fixed(found)}; {several} {', '.join(commits)};"
        f" {len(found.runs)} runs {when} by {command}."
    ]
    oracles = [METRICS[m].display for m in query.metrics if m in METRICS and METRICS[m].oracle]
    if oracles:
        sentences.append(f"{', '.join(oracles)}: best threshold on the test labels (an oracle).")
    if query.timed:
        machines = dict.fromkeys(code(facets_of(run)[MACHINE]) for run in found.runs)
        sentences += layout.timed(query.metrics, machines)
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


def _fixed(found: RunTable) -> str:
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
