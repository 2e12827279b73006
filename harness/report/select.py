"""Which runs stand in a table: one per category, or a reason why none does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from harness.record import StoredRun
from harness.report.row import FINISHED
from harness.report.table import ReportError, Table


@dataclass(frozen=True)
class Selection:
    """The runs of a table.

    Attributes
    ----------
    runs : dict of str to StoredRun
        At most one run per category, in the table's order.
    notes : tuple of str
        What a reader of the terminal should know: several runs of one cell, a refused run.
    """

    runs: dict[str, StoredRun]
    notes: tuple[str, ...]


def select(table: Table, runs: Iterable[StoredRun]) -> Selection:
    """Pick the table's runs: per category the newest finished one, else the newest failed one.

    Parameters
    ----------
    table : Table
        The declaration.
    runs : iterable of StoredRun
        Every run there is, in any order.

    Raises
    ------
    ReportError
        The picked runs mix two sets of weights: a table claims one.
    """
    fitting = [run for run in runs if fits(table, run)]
    notes = [
        f"{table.name}: run {run.run_id} of {run.record.category} is refused,"
        " its data are not the published dataset (official is false)"
        for run in sorted(fitting, key=_age)
        if not run.record.official and run.status == FINISHED
    ]
    chosen: dict[str, StoredRun] = {}
    for category in table.categories:
        candidates = [run for run in fitting if run.record.category == category and _eligible(run)]
        if candidates:
            chosen[category] = max(candidates, key=_preference)
            notes += _several(table, chosen[category], candidates)
    _one_set_of_weights(table, chosen)
    return Selection(chosen, tuple(notes))


def fits(table: Table, run: StoredRun) -> bool:
    """Whether a run's cell and settings are those that the table declares."""
    record = run.record
    cell = (record.dataset, record.backbone, record.model, record.seed)
    if cell != (table.dataset, table.backbone, table.model, table.seed):
        return False
    return all(_agrees(table, key, value) for key, value in record.settings.items())


def _agrees(table: Table, key: str, value: str) -> bool:
    """Compare a setting by value, not by spelling: `0`, `0.0`; an unknown setting disagrees."""
    try:
        expected = table.expected(key)
    except (KeyError, TypeError):
        return False
    return _values(value) == _values(expected)


def _values(setting: Any) -> list[Any]:
    """Parse a setting's text; a record writes a list as `0.5,0.5`, and null as Python's None."""
    items = setting if isinstance(setting, list) else str(setting).split(",")
    return [None if str(item) == "None" else yaml.safe_load(str(item)) for item in items]


def _eligible(run: StoredRun) -> bool:
    return run.record.official or run.status != FINISHED


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


def _one_set_of_weights(table: Table, chosen: Mapping[str, StoredRun]) -> None:
    categories: dict[str, list[str]] = {}
    for category, run in chosen.items():
        if run.status == FINISHED:
            categories.setdefault(run.record.weights_digest, []).append(category)
    if len(categories) > 1:
        mixed = "; ".join(
            f"{digest[:12]} ({', '.join(names)})" for digest, names in categories.items()
        )
        raise ReportError(
            f"{table.name} mixes {len(categories)} sets of weights of {table.backbone}: {mixed};"
            f" run {table.command} with one of them"
        )
