"""Which run a cell shows: of a declared table by its settings, and why one is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import yaml

from harness.record import Record, StoredRun
from harness.report.declaration import Cell, ReportError, Table, expected
from harness.report.results import FINISHED, Row, difference, first_difference

_ARGUMENT = "backbone.arguments."
# Null takes the network's own, which come with the run's weights.
_OWN = ("backbone.mean", "backbone.std")
# Settings whose `auto` is whatever the machine has: engines and devices agree far below what a
# table prints. Precisions do not.
_RESOLVED = ("features.engine", "features.device")
RANDOM = "(random weights)"
"""How a backbone's name ends of which the seed draws the weights."""

Place = TypeVar("Place")
Read = Callable[[StoredRun], Record]
"""Reads the record that a finished run has kept, its scores among it.

It raises `ValueError` where there is none."""
as_read: Read = attrgetter("record")
"""Of a run that was read with its scores."""


class Selection(NamedTuple):
    """The runs of a table, at most one per cell, and what a reader of the terminal should know."""

    runs: dict[Cell, StoredRun]
    notes: tuple[str, ...]


def preference(of: StoredRun | Row) -> tuple[bool, str, str]:
    """Sort what is shown rather behind: finished jobs, then the newest."""
    return (of.status == FINISHED, of.started, of.run_id)


def proven(
    runs: Mapping[Place, Sequence[StoredRun]], read: Read
) -> tuple[dict[Place, StoredRun], list[tuple[StoredRun, str]]]:
    """Pick of each place the first run that failed, or whose scores give its metrics.

    A finished run comes with its scores; returned are also those that they contradict, and how.
    """
    picked, refused = {}, []
    for place, candidates in runs.items():
        for run in candidates:
            kept, wrong = run.record, ""
            if run.status == FINISHED:
                try:
                    kept = read(run)
                    wrong = difference(run.record, kept.scores) or first_difference(
                        run.record.metrics, kept.metrics, by="its record"
                    )
                except ValueError as error:
                    wrong = str(error)
            if not wrong:
                picked[place] = replace(run, record=replace(run.record, scores=kept.scores))
                break
            refused.append((run, wrong))
    return picked, refused


def select(
    table: Table, runs: Iterable[StoredRun], *, published: Iterable[Row] = (), read: Read = as_read
) -> Selection:
    """Pick a declared table's runs: per cell the newest finished one, else the newest failed one.

    A run that is older than a published row, or that failed where a row is finished, is no news.
    """
    rows = {cell_of(table, row): row for row in published}
    found: dict[Cell, list[StoredRun]] = {}
    refused: dict[str, list[StoredRun]] = {}
    named = {tuple(names.values()) for names in table.names.values()}
    near = (r for r in runs if (r.record.dataset, r.record.model, r.record.backbone) in named)
    fits = ((run, *fit(table, run.record)) for run in near if run.record.settings)
    fitting = [(run, cell) for run, cell, wrong in fits if not wrong]
    for run, cell in sorted(fitting, key=lambda one: preference(one[0]), reverse=True):
        reason = built_otherwise(table, run.record, cell.value)
        if run.status == FINISHED and not run.record.official:
            reason = "its data are not the published dataset (official is false)"
        if reason:
            refused.setdefault(reason, []).append(run)
        elif cell not in rows or preference(run) >= preference(rows[cell]):
            found.setdefault(cell, []).append(run)
    notes = [_refused(table, reason, those) for reason, those in refused.items()]
    # A job that failed before its data were known may have read anything, or nothing.
    shown = {
        cell: [run for run in found[cell] if run.status == FINISHED or run.record.official]
        for cell in table.cells()
        if cell in found
    }
    chosen, contradicted = proven(shown, read)
    notes += [_refused(table, why, [run]) for run, why in contradicted]
    for cell, run in chosen.items():
        finished = sum(one.status == FINISHED for one in found[cell])
        if finished > 1:
            what = f"{table.name}: {cell.category} has {finished} finished runs"
            notes.append(f"{what}, the newest is shown: {run.run_id}")
    hidden = [run for cell in found if cell not in {*chosen, *rows} for run in found[cell]]
    if failed := [run for run in hidden if run.status != FINISHED]:
        error = max(failed, key=preference).error
        notes.append(f"{len(failed)} failed runs of {table.name} not shown: {error}")
    _check_weights(table, chosen, rows)
    return Selection(chosen, tuple(notes))


def cell_of(table: Table, of: Record) -> Cell:
    """Name the cell of what fits the table."""
    return fit(table, of)[0]


def fit(table: Table, of: Record) -> tuple[Cell, str]:
    """Return the cell of a run or a row, and in what it is not as declared, if in anything."""
    nowhere = Cell(of.category, of.seed, "")
    if of.seed not in table.seeds or of.category not in table.categories:
        return nowhere, f"category={of.category} with seed={of.seed} is not declared"
    wrong = {value: _wrong(table, value, of) for value in table.configs}
    fitting = [value for value, problem in wrong.items() if not problem]
    if len(fitting) == 1:
        return nowhere._replace(value=fitting[0]), ""
    return nowhere, f"it does not record {table.axis}" if fitting else next(iter(wrong.values()))


def _wrong(table: Table, value: str, of: Record) -> str:
    for group, name in table.names[value].items():
        if getattr(of, group) != name:
            return f"{group}={getattr(of, group)}, declared is {name}"
    config = table.configs[value]
    given = {key for key in of.settings if key.startswith(_ARGUMENT)}
    if given != {f"{_ARGUMENT}{key}" for key in config["backbone"].get("arguments") or {}}:
        return f"{_ARGUMENT}* are not those declared"
    for key, setting in of.settings.items():
        try:
            declared = expected(config, key)
        except KeyError:
            return f"{key}={setting}, declared is no such setting"
        free = (declared is None and key in _OWN) or (declared == "auto" and key in _RESOLVED)
        # By value, not by spelling: `0`, `0.0`.
        if not free and setting_values(declared) != setting_values(setting):
            return f"{key}={setting}, declared is {declared}"
    return ""


def setting_values(setting: Any) -> tuple[Any, ...]:
    """Parse a setting's text; a record writes a list as `0.5,0.5`, and null as Python's None."""
    items = setting if isinstance(setting, list) else str(setting).split(",")
    return tuple(map(_value, map(str, items)))


@cache  # thousands of runs have the same few settings, and YAML is slow
def _value(text: str) -> Any:
    try:
        return None if text == "None" else yaml.safe_load(text)
    except yaml.YAMLError:  # a failed job's mistyped value, which fits nothing
        return text


def built_otherwise(table: Table, of: Record, value: str) -> str:
    """Say what built a model or backbone, whatever it is named, where it is not what is declared.

    Rows of schema 2 do not record it.
    """
    config = table.configs[value]
    for group, factory in (("backbone", of.backbone_factory), ("model", of.model_factory)):
        if factory and factory != config[group]["factory"]:
            return (
                f"its {group} was built by {factory}, and"
                f" conf/experiment/{table.name}.yaml declares {config[group]['factory']}"
            )
    return ""


def _refused(table: Table, reason: str, runs: list[StoredRun]) -> str:
    newest, more = runs[0], f"; so are {len(runs) - 1} more" if len(runs) > 1 else ""
    return (
        f"{table.name}: run {newest.run_id} of {newest.record.category} is refused, {reason}{more}"
    )


def _check_weights(
    table: Table, chosen: Mapping[Cell, StoredRun], rows: Mapping[Cell, Row]
) -> None:
    """Refuse two sets of weights of a backbone, or of a seed where the seed draws them."""
    sets: dict[tuple[str, str, int | None], dict[str, dict[str, None]]] = {}
    for state, cells in (("", {c: run.record for c, run in chosen.items()}), ("published ", rows)):
        for cell, of in cells.items():
            seed = of.seed if of.backbone.endswith(RANDOM) else None
            value = cell.value if table.axis.startswith("backbone") else ""
            digests = sets.setdefault((of.backbone, value, seed), {})
            if of.weights_digest:  # of a failed job, it is not known
                digests.setdefault(of.weights_digest[:12], {})[state + of.category] = None
    for (backbone, *_), digests in sets.items():
        if len(digests) > 1:
            mixed = "; ".join(f"{digest} ({', '.join(of)})" for digest, of in digests.items())
            raise ReportError(
                f"{table.name} mixes {len(digests)} sets of weights of {backbone}: {mixed};"
                f" run {table.command} with one of them, or drop what is published with"
                f" --replace {table.name}"
            )
