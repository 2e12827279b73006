"""Which runs stand in a table: one per cell, or a reason why none does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import yaml

from harness.record import Record, StoredRun
from harness.report.row import FINISHED, Row
from harness.report.scores import difference, first_difference
from harness.report.table import Cell, ReportError, Table

_ARGUMENT = "backbone.arguments."
# Null takes the network's own, which the run's weights tell.
_OWN = ("backbone.mean", "backbone.std")
# Settings whose `auto` is whatever the machine has: engines and devices agree far below what a
# table prints. Precisions do not.
_RESOLVED = ("features.engine", "features.device")
_UNKNOWN = "no such setting"


Read = Callable[[StoredRun], Record]
"""How the record is read that a finished run has kept, its scores among it.

It raises `ValueError` where there is none."""


@dataclass(frozen=True)
class Selection:
    """The runs of a table.

    Attributes
    ----------
    runs : dict of Cell to StoredRun
        At most one run per cell, in the table's order; a finished one with its scores.
    notes : tuple of str
        What a reader of the terminal should know: several runs of one cell, a refused run.
    """

    runs: dict[Cell, StoredRun]
    notes: tuple[str, ...]


def as_read(run: StoredRun) -> Record:
    """Return the record of a run that was read with its scores."""
    return run.record


def select(
    table: Table,
    runs: Iterable[StoredRun],
    *,
    published: Iterable[Row] = (),
    read: Read = as_read,
) -> Selection:
    """Pick the table's runs: per cell the newest finished one, else the newest failed one.

    Parameters
    ----------
    table : Table
        The declaration.
    runs : iterable of StoredRun
        Every run there is, in any order.
    published : iterable of Row
        What the table has. A run that is older, or that failed where a row is finished, is no news.
    read : callable
        Reads the record that a run has kept.

    Raises
    ------
    ReportError
        The picked runs mix two sets of weights, with one another or with what is published: a table
        claims one, or one for each seed where the seed draws them.
    """
    rows = {cell_of(table, row): row for row in published}
    found: dict[Cell, list[StoredRun]] = {}
    refused: dict[str, list[StoredRun]] = {}
    for run in sorted(filter(partial(fits, table), runs), key=_preference, reverse=True):
        reason, cell = _refusal(table, run), cell_of(table, run.record)
        if reason:
            refused.setdefault(reason, []).append(run)
        elif cell not in rows or _preference(run) >= _preference(rows[cell]):
            found.setdefault(cell, []).append(run)
    notes = [_refused(table, reason, those) for reason, those in refused.items()]
    chosen: dict[Cell, StoredRun] = {}
    for cell in table.cells():
        for run in _believed(table, found.get(cell, []), read=read, notes=notes):
            chosen[cell] = run
            notes += _several(table, run, found[cell])
            break
    hidden = [found[cell] for cell in set(found) - set(chosen) - set(rows)]
    notes += _lost(table, [run for those in hidden for run in those])
    _one_set_of_weights(table, chosen, rows)
    return Selection(chosen, tuple(notes))


def fits(table: Table, run: StoredRun) -> bool:
    """Whether a run's cell and settings are among those that the table declares.

    A run that tells no settings fits nowhere: a job that failed before it knew them.
    """
    return bool(run.record.settings) and not mismatch(table, run.record)


def mismatch(table: Table, of: Record | Row) -> str:
    """Say in what a run or a row is not as the table declares; empty where it fits."""
    for name in ("dataset", "model", "backbone"):
        if getattr(of, name) != table.choice(name):
            return f"{name}={getattr(of, name)}, declared is {table.choice(name)}"
    if of.seed not in table.seeds or of.category not in table.categories:
        return f"category={of.category} with seed={of.seed} is not declared"
    if table.axis and table.axis not in of.settings:
        return f"it tells no {table.axis}"
    if not _same_arguments(table, of.settings):
        return f"{_ARGUMENT}* are not those declared"
    wrong = (key for key, value in of.settings.items() if not _agrees(table, key, value))
    key = next(wrong, None)
    return "" if key is None else f"{key}={of.settings[key]}, declared is {_declared(table, key)}"


def cell_of(table: Table, of: Record | Row) -> Cell:
    """Name the cell of what fits the table."""
    return Cell(of.category, of.seed, axis_value(table, of.settings))


def axis_value(table: Table, settings: Mapping[str, str]) -> str:
    """Spell a swept setting's value as the table declares it."""
    if not table.axis:
        return ""
    given = settings.get(table.axis)
    for value in table.values:
        if setting_values(value) == setting_values(given):
            return value
    raise ReportError(f"results/{table.name}.csv has a {table.axis} that is not declared")


def _same_arguments(table: Table, settings: Mapping[str, str]) -> bool:
    """Tell whether the backbone was built with the declared arguments, none of them left out."""
    given = {key for key in settings if key.startswith(_ARGUMENT)}
    declared = table.config["backbone"].get("arguments") or {}
    return given == {f"{_ARGUMENT}{name}" for name in declared}


def _agrees(table: Table, key: str, value: str) -> bool:
    """Compare a setting by value, not by spelling: `0`, `0.0`; an unknown setting disagrees."""
    given = setting_values(value)
    if key == table.axis:
        return any(setting_values(value) == given for value in table.values)
    expected = _declared(table, key)
    if expected is None and key in _OWN:
        return True
    same = (expected == "auto" and key in _RESOLVED) or setting_values(expected) == given
    return expected is not _UNKNOWN and same


def _declared(table: Table, key: str) -> Any:
    try:
        return table.expected(key)
    except KeyError:
        return _UNKNOWN


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


def built_otherwise(table: Table, of: Record | Row) -> str:
    """Say what built a model or backbone, whatever it is named, where it is not what is declared.

    Rows of schema 2 do not tell.
    """
    for group, factory in (("backbone", of.backbone_factory), ("model", of.model_factory)):
        if factory and factory != table.factory(group):
            return (
                f"its {group} was built by {factory}, and"
                f" conf/experiment/{table.name}.yaml declares {table.factory(group)}"
            )
    return ""


def _refusal(table: Table, run: StoredRun) -> str:
    """Say why a run may not stand in the table, whatever it is named; empty where it may."""
    if run.status == FINISHED and not run.record.official:
        return "its data are not the published dataset (official is false)"
    return built_otherwise(table, run.record)


def _refused(table: Table, reason: str, runs: list[StoredRun]) -> str:
    newest, more = runs[0], f"; so are {len(runs) - 1} more" if len(runs) > 1 else ""
    return (
        f"{table.name}: run {newest.run_id} of {newest.record.category} is refused, {reason}{more}"
    )


def _preference(of: StoredRun | Row) -> tuple[bool, str, str]:
    return (of.status == FINISHED, of.started, of.run_id)


def _believed(
    table: Table, runs: list[StoredRun], *, read: Read, notes: list[str]
) -> Iterator[StoredRun]:
    """Yield the runs that may be shown, the finished ones with the scores that prove them.

    A job that failed before its data were known may have read anything, or nothing.
    """
    for run in runs:
        if run.status != FINISHED:
            if run.record.official:
                yield run
            continue
        try:
            yield with_scores(run, read)
        except ValueError as error:
            notes.append(_refused(table, str(error), [run]))


def with_scores(run: StoredRun, read: Read) -> StoredRun:
    """Return a finished run with the scores that prove its metrics.

    Raises
    ------
    ValueError
        In one line: it keeps none, or they, or the metrics as it logged them, are others.
    """
    kept, told = read(run), run.record
    wrong = difference(told, kept.scores) or first_difference(
        told.metrics, kept.metrics, by="its record"
    )
    if wrong:
        raise ValueError(wrong)
    return replace(run, record=replace(told, scores=kept.scores))


def _several(table: Table, chosen: StoredRun, candidates: list[StoredRun]) -> list[str]:
    finished = sum(run.status == FINISHED for run in candidates)
    if finished < 2:
        return []
    return [
        f"{table.name}: {chosen.record.category} has {finished} finished runs,"
        f" the newest is shown: {chosen.run_id}"
    ]


def _lost(table: Table, runs: list[StoredRun]) -> list[str]:
    """Tell of cells that have failed runs alone, none of which may be shown."""
    failed = [run for run in runs if run.status != FINISHED]
    if not failed:
        return []
    newest = max(failed, key=_preference)
    return [f"{len(failed)} failed runs of {table.name} not shown: {newest.error}"]


def _one_set_of_weights(
    table: Table, chosen: Mapping[Cell, StoredRun], rows: Mapping[Cell, Row]
) -> None:
    told = [(cell, run.record.weights_digest, "") for cell, run in chosen.items()]
    told += [(cell, row.weights_digest, "published ") for cell, row in rows.items()]
    sets: dict[int | None, dict[str, list[str]]] = {}
    for cell, digest, state in told:
        if digest:  # of a failed job, it is not known
            of_seed = sets.setdefault(cell.seed if table.random_weights else None, {})
            of_seed.setdefault(digest, []).append(state + cell.category)
    for categories in sets.values():
        _refuse_mixed(table, categories)


def _refuse_mixed(table: Table, categories: Mapping[str, list[str]]) -> None:
    if len(categories) > 1:
        mixed = "; ".join(
            f"{digest[:12]} ({', '.join(dict.fromkeys(names))})"
            for digest, names in categories.items()
        )
        raise ReportError(
            f"{table.name} mixes {len(categories)} sets of weights of {table.choice('backbone')}:"
            f" {mixed}; run {table.command} with one of them, or drop what is published with"
            f" --replace {table.name}"
        )
