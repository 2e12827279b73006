"""Which runs stand in a table: one per cell, or a reason why none does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import yaml

from harness.record import Record, StoredRun
from harness.report.row import FINISHED
from harness.report.table import Cell, ReportError, Table

_ARGUMENT = "backbone.arguments."
# Null takes the network's own, which the run's weights tell.
_OWN = ("backbone.mean", "backbone.std")
# Settings whose `auto` is whatever the machine has: engines and devices agree far below what a
# table prints. Precisions do not.
_RESOLVED = ("features.engine", "features.device")


@dataclass(frozen=True)
class Selection:
    """The runs of a table.

    Attributes
    ----------
    runs : dict of Cell to StoredRun
        At most one run per cell, in the table's order.
    notes : tuple of str
        What a reader of the terminal should know: several runs of one cell, a refused run.
    """

    runs: dict[Cell, StoredRun]
    notes: tuple[str, ...]


def select(table: Table, runs: Iterable[StoredRun]) -> Selection:
    """Pick the table's runs: per cell the newest finished one, else the newest failed one.

    Parameters
    ----------
    table : Table
        The declaration.
    runs : iterable of StoredRun
        Every run there is, in any order.

    Raises
    ------
    ReportError
        The picked runs mix two sets of weights: a table claims one, or one for each seed where the
        seed draws them.
    """
    fitting: dict[Cell, list[StoredRun]] = {}
    notes: list[str] = []
    for run in sorted(filter(partial(fits, table), runs), key=_age):
        refusal = _refusal(table, run)
        if refusal:
            notes.append(f"{table.name}: run {run.run_id} of {run.record.category} {refusal}")
        else:
            fitting.setdefault(cell_of(table, run.record), []).append(run)
    chosen = {
        cell: max(fitting[cell], key=_preference) for cell in table.cells() if cell in fitting
    }
    for cell, run in chosen.items():
        notes += _several(table, run, fitting[cell])
    _one_set_of_weights(table, chosen)
    return Selection(chosen, tuple(notes))


def fits(table: Table, run: StoredRun) -> bool:
    """Whether a run's cell and settings are among those that the table declares.

    A run that tells no settings fits nowhere: a job that failed before it knew them.
    """
    record = run.record
    same = all(
        getattr(record, group) == table.choice(group) for group in ("dataset", "backbone", "model")
    )
    if not same or record.seed not in table.seeds:
        return False
    settings = record.settings
    if not settings or (table.axis and table.axis not in settings):
        return False
    return _same_arguments(table, settings) and all(
        _agrees(table, key, value) for key, value in settings.items()
    )


def cell_of(table: Table, record: Record) -> Cell:
    """Name the cell of a fitting record."""
    return Cell(record.category, record.seed, axis_value(table, record.settings))


def axis_value(table: Table, settings: Mapping[str, str]) -> str:
    """Spell a swept setting's value as the table declares it."""
    if not table.axis:
        return ""
    given = settings.get(table.axis)
    for value in table.values:
        if _values(value) == _values(given):
            return value
    raise ReportError(f"results/{table.name}.csv has a {table.axis} that is not declared")


def _same_arguments(table: Table, settings: Mapping[str, str]) -> bool:
    """Tell whether the backbone was built with the declared arguments, none of them left out."""
    given = {key for key in settings if key.startswith(_ARGUMENT)}
    declared = table.config["backbone"].get("arguments") or {}
    return given == {f"{_ARGUMENT}{name}" for name in declared}


def _agrees(table: Table, key: str, value: str) -> bool:
    """Compare a setting by value, not by spelling: `0`, `0.0`; an unknown setting disagrees."""
    given = _values(value)
    if key == table.axis:
        return any(_values(value) == given for value in table.values)
    try:
        expected = table.expected(key)
    except KeyError:
        return False
    if expected is None and key in _OWN:
        return True
    return (expected == "auto" and key in _RESOLVED) or _values(expected) == given


def _values(setting: Any) -> tuple[Any, ...]:
    """Parse a setting's text; a record writes a list as `0.5,0.5`, and null as Python's None."""
    items = setting if isinstance(setting, list) else str(setting).split(",")
    return tuple(map(_value, map(str, items)))


@cache  # thousands of runs have the same few settings, and YAML is slow
def _value(text: str) -> Any:
    try:
        return None if text == "None" else yaml.safe_load(text)
    except yaml.YAMLError:  # a failed job's mistyped value, which fits nothing
        return text


def _refusal(table: Table, run: StoredRun) -> str:
    """Say why a run may not stand in the table, whatever it is named; empty where it may."""
    if run.status == FINISHED and not run.record.official:
        return "is refused, its data are not the published dataset (official is false)"
    built = {"backbone": run.record.backbone_factory, "model": run.record.model_factory}
    for group, factory in built.items():
        if factory != table.factory(group):
            return (
                f"is refused, its {group} was built by {factory}, and"
                f" conf/experiment/{table.name}.yaml declares {table.factory(group)}"
            )
    return ""


def _age(run: StoredRun) -> tuple[str, str]:
    return (run.started, run.run_id)


def _preference(run: StoredRun) -> tuple[bool, str, str]:
    return (run.status == FINISHED, *_age(run))


def _several(table: Table, chosen: StoredRun, candidates: list[StoredRun]) -> list[str]:
    finished = sum(run.status == FINISHED for run in candidates)
    if finished < 2:
        return []
    return [
        f"{table.name}: {chosen.record.category} has {finished} finished runs,"
        f" the newest is shown: {chosen.run_id}"
    ]


def _one_set_of_weights(table: Table, chosen: Mapping[Cell, StoredRun]) -> None:
    sets: dict[int | None, dict[str, list[str]]] = {}
    for cell, run in chosen.items():
        if run.status == FINISHED:
            seed = cell.seed if table.random_weights else None
            categories = sets.setdefault(seed, {})
            categories.setdefault(run.record.weights_digest, []).append(cell.category)
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
            f" {mixed}; run {table.command} with one of them"
        )
