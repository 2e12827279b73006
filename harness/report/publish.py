"""Write `results/` and the pages from runs: add and replace rows, and keep the others."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from harness.record import StoredRun
from harness.report.bootstrap import Resampled, average_limits, cell_limits, images_of, resample
from harness.report.declaration import INTERVAL_METRIC, Cell, ReportError, Table, read_tables
from harness.report.readme import check_markers, contents_of, filled, markers, read_pages
from harness.report.results import (
    Average,
    Row,
    TableResults,
    backed_scores,
    files_of,
    read_results,
    row_of,
)
from harness.report.selection import Read, as_read, built_otherwise, cell_of, fit, select
from harness.system.files import write_together

_TRACES = ("commit", "environment", "identity", "data_fingerprint", "scores_digest")
"""What two rows of a cell are compared by: code, data and scores."""


class Plan(NamedTuple):
    """What a report would write."""

    before: dict[str, TableResults]  # by table, what `results/` holds of it
    held: dict[str, TableResults]
    pages: dict[str, tuple[str, str]]  # by page, its text as it is and as it would be
    notes: list[str]  # for the terminal
    refusals: list[str]  # why tables could not be made, which stay as they are

    def files(self, results: Path) -> dict[Path, bytes | None]:
        """Return all of `results/`; None where a file has the scores of no published row."""
        files: dict[Path, bytes | None] = {
            results / path: content.encode(errors="surrogatepass")
            for path, content in files_of(self.held).items()
        }
        return files | dict.fromkeys(sorted({*results.glob("scores/*.csv")} - set(files)))


def publish(
    root: Path,
    runs: Iterable[StoredRun],
    *,
    only: Collection[str] = (),
    drop: Callable[[str, Row], bool] = lambda table, row: False,
    read: Read = as_read,
) -> tuple[list[str], list[str]]:
    """Write `results/`, and what stands at the markers of the pages: every file, or none.

    Given `only` some tables, the others stay as they are; `drop` returns whether a published row is
    not kept. Returned are notes for the terminal, and why tables could not be made, which stay as
    they are. An `OSError` means that nothing has been changed.
    """
    plan = _planned(root, list(runs), only, drop, read)
    files = plan.files(root / "results")
    gone = [path for path, content in files.items() if content is None]
    files |= {root / page: after.encode() for page, (_, after) in plan.pages.items()}
    there = {path: path.read_bytes() for path in files if path.is_file()}
    write_together({p: new for p, new in files.items() if new is None or new != there.get(p)})
    what = "no published row has these scores; the file is removed"
    return [*plan.notes, *(f"{path}: {what}" for path in gone)], plan.refusals


def check(root: Path) -> str:
    """Return the difference of the pages to what the results say, without any run; empty for none.

    Raises `ReportError` where a marker, a file or a schema is wrong, or results contradict.
    """
    plan, results = _planned(root, [], (), lambda table, row: False, as_read), root / "results"
    for path, content in plan.files(results).items():
        if content is None:
            raise ReportError(f"{path} has the scores of no published row")
        if not path.exists():
            raise ReportError(f"{path} is missing")
    for name, held in plan.held.items():
        if held != plan.before[name]:
            raise ReportError(f"results/{name}.csv, its scores or averages are not as reported")
    difference = [
        line
        for page, (before, after) in plan.pages.items()
        for line in difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            fromfile=page,
            tofile=f"{page} as results/ has it",
        )
    ]
    if plan.refusals and not difference:
        raise ReportError(plan.refusals[0])
    return "".join(difference)


def _planned(
    root: Path,
    runs: Sequence[StoredRun],
    only: Collection[str],
    drop: Callable[[str, Row], bool],
    read: Read,
) -> Plan:
    tables, results = read_tables(root / "conf"), root / "results"
    names = {*tables, *tables.refused}
    unknown = sorted(set(only) - names)
    if unknown:
        raise ReportError(f"no table {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    pages = read_pages(root)
    found = markers(pages)
    if not only:
        check_markers(found, tables)
    marked = [marker.name for marker in found if marker.kind == "table"]
    before = {name: read_results(results, name) for name in sorted(names)}
    held, made, notes = dict(before), {}, []
    refusals = [tables.refused[name] for name in only or marked if name in tables.refused]
    for name in filter(tables.__contains__, only or tables):
        rows = before[name].rows
        kept = tuple(row for row in rows if not drop(name, row))
        try:
            held[name], own = _updated(tables[name], replace(before[name], rows=kept), runs, read)
        except ReportError as error:
            refusals.append(str(error))
        else:
            made[name] = tables[name]
            notes += [*own, *_changed(tables[name], rows, held[name].rows)]
    sound = {n: t for n, t in tables.items() if not any(_misfit(t, row) for row in held[n].rows)}
    contents = contents_of(found, made, sound, held, results)
    filled_in = {page: (text, filled(text, contents)) for page, text in pages.items()}
    shown = {*(name for name in marked if name in tables), *(n for n in names if held[n].rows)}
    shown |= {name for name in names if (results / f"{name}.csv").exists()}
    return Plan(before, {n: held[n] for n in held if n in shown}, filled_in, notes, refusals)


def _updated(
    table: Table, held: TableResults, runs: Iterable[StoredRun], read: Read
) -> tuple[TableResults, tuple[str, ...]]:
    """Add the runs of a table to its rows; return notes, too."""
    for row in held.rows:
        if misfit := _misfit(table, row):
            raise ReportError(
                f"results/{table.name}.csv: {row.category} of run {row.run_id} is not as"
                f" conf/experiment/{table.name}.yaml declares it: {misfit}; to drop what is"
                f" published: python -m harness.report --replace {table.name}"
            )
    chosen, notes = select(table, runs, published=held.rows, read=read)
    results = _results_of(table, chosen, held)
    if table.headline:
        backed_scores(table.name, results)
    return results, notes


def _results_of(table: Table, runs: Mapping[Cell, StoredRun], held: TableResults) -> TableResults:
    """Put runs, with their scores, into what a table's files hold; other rows stay as they are."""
    scores = dict(held.scores)
    scores |= {c.category: run.record.scores for c, run in runs.items() if table.headline}

    @cache
    def resampled(category: str) -> Resampled | None:
        try:
            key = f"{table.choice('dataset')}/{category}"
            return resample(images_of(scores.get(category, ())), key=key)
        except ValueError:  # too few images
            return None

    environments, known = dict(held.environments), {cell_of(table, row): row for row in held.rows}
    for cell, run in runs.items():
        environment = {"versions": dict(run.versions), "machine": dict(run.machine)}
        text = json.dumps(environment, sort_keys=True, ensure_ascii=False)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        limits = cell_limits(resampled(cell.category))
        own = {} if limits is None else {INTERVAL_METRIC: limits}
        environments[key], known[cell] = environment, row_of(run, environment=key, limits=own)
    rows = tuple(known[cell] for cell in table.cells() if cell in known)
    averages = averages_of(table, rows)
    if not runs and averages == {m: Average(a.value) for m, a in held.averages.items()}:
        averages = held.averages
    elif INTERVAL_METRIC in averages:
        low, high = average_limits([resampled(row.category) for row in rows]) or (None, None)
        averages[INTERVAL_METRIC] = Average(averages[INTERVAL_METRIC].value, low, high)
    return TableResults(
        rows,
        {row.category: scores[row.category] for row in rows if scores.get(row.category)},
        averages,
        {row.environment: environments[row.environment] for row in rows},
    )


def averages_of(table: Table, rows: Sequence[Row]) -> dict[str, Average]:
    """Average the complete columns of a table with one job per category, without intervals."""
    if not table.headline or len(rows) < len(table.categories):
        return {}
    complete = sorted(set.intersection(*(set(row.metrics) for row in rows)))
    return {metric: Average(fmean(row.metrics[metric] for row in rows)) for metric in complete}


def _misfit(table: Table, row: Row) -> str:
    cell, wrong = fit(table, row)
    return wrong or built_otherwise(table, row, cell.value)


def _changed(table: Table, before: Iterable[Row], after: Iterable[Row]) -> Iterator[str]:
    """List the rows that went away or are of other runs now, and what differs in those."""
    now = {cell_of(table, row): row for row in after}
    for row in before:
        new = now.get(cell_of(table, row))
        what = f"{table.name}: {row.category} of run {row.run_id}"
        if new is None:
            yield f"{what} is no longer shown"
        elif new.run_id != row.run_id:
            changed = [trace for trace in _TRACES if getattr(new, trace) != getattr(row, trace)]
            difference = ", ".join(changed) or "nothing"
            yield f"{what} is replaced by run {new.run_id}; changed: {difference}"
