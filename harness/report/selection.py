"""Which runs a table shows: what tells runs apart, how they are chosen, and why one is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any, NamedTuple

import yaml

from harness.record import Record, StoredRun
from harness.report.declaration import Cell, ReportError, Table
from harness.report.rows import FINISHED, Row, difference, first_difference

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
    """The runs of a table."""

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
    """Pick the table's runs: per cell the newest finished one, else the newest failed one."""
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
    """Return a finished run with the scores that prove its metrics."""
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


CORE = ("dataset", "category", "model", "backbone", "seed")
DATA = ("official", "data_fingerprint")
DIGESTS = ("data_fingerprint", "weights_digest", "identity", "commit", "run")
"""Chosen by how they begin."""
MACHINE = "machine"
# What runs of one cell may differ in: numbers do not depend on it.
_FREE = ("seed", "commit", MACHINE, "run")
_FACTORIES = ("model_factory", "backbone_factory")
# Hydra's names of what a run records under another.
_HYDRA = (("model.params.", "model."), ("dataset.official", "official"))
_ITEM = re.compile(r"(?:\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^,])+")
_MANY = 8

Facets = Mapping[str, str]
"""All that a run can be chosen or laid out by; a setting that it does not tell is absent."""


def facets_of(run: StoredRun) -> Facets:
    """Gather the facets of a run."""
    record = run.record
    plain = {name: str(getattr(record, name)) for name in (*CORE, *_FACTORIES)}
    data = {"official": str(record.official).lower(), "data_fingerprint": record.data_fingerprint}
    digests = {"weights_digest": record.weights_digest, "identity": run.identity}
    origin = {"commit": run.commit, MACHINE: machine_words(run.machine), "run": run.run_id}
    return plain | record.settings | data | digests | origin


def machine_words(machine: Mapping[str, str]) -> str:
    """Write a machine in one line, the same from a run and from a file."""
    return " · ".join(f"{key} {value}" for key, value in sorted(machine.items()))


def in_words(name: str, value: str | None) -> str:
    """Write a facet's value for a table; digests by their first 12 digits."""
    if value is None:
        return "–"
    return value[:12] if name in DIGESTS else value


def natural(value: str | None) -> tuple[float, str]:
    """Sort what is not set first, then numbers by value, then words."""
    try:
        return float(value or ""), ""
    except ValueError:
        return (float("-inf"), "") if value in (None, "None") else (float("inf"), str(value))


class Choice(NamedTuple):
    """A facet that must have one of some values."""

    name: str
    values: tuple[str, ...]

    def rank(self, given: str) -> int | None:
        """Return the place of the first value that a run's facet agrees with, None without one."""
        places = (i for i, value in enumerate(self.values) if self._agrees(value, given))
        return next(places, None)

    def _agrees(self, value: str, given: str) -> bool:
        if value.startswith("glob(") and value.endswith(")"):
            return fnmatchcase(given, value[5:-1])
        if self.name in DIGESTS:
            return given.startswith(value)
        if self.name in (*CORE, *DATA, *_FACTORIES, MACHINE, "defect_type"):
            return given == value
        return setting_values(value.removeprefix("[").removesuffix("]")) == setting_values(given)


def parse(arguments: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read `KEY=VALUE` and `KEY=VALUE,VALUE`, in Hydra's names and ours.

    Examples
    --------
    >>> parse(["model=knn,dfkde", "backbone.layers=[a,b]", "model.params.n_neighbors=1"])
    {'model': ('knn', 'dfkde'), 'backbone.layers': ('[a,b]',), 'model.n_neighbors': ('1',)}
    """
    found: dict[str, tuple[str, ...]] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        values = tuple(item.strip().strip("'\"") for item in _ITEM.findall(text))
        if not (key and equals and values):
            raise ReportError(f"must be KEY=VALUE or KEY=VALUE,VALUE, got {argument!r}")
        key = our_name(key)
        if key in found:
            raise ReportError(f"{key} must be given once, got {','.join(found[key])} and {text}")
        found[key] = values
    return found


def our_name(key: str) -> str:
    """Return the name that a run records a setting of Hydra's under."""
    for theirs, ours in _HYDRA:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def check_key(key: str, known: Iterable[str], *, what: str) -> None:
    """Refuse a key that nothing has, with the choices."""
    if key not in (known := tuple(known)):
        raise ReportError(f"unknown {what} {key!r}; choose from {', '.join(known)}")


def check_choices(choices: Iterable[Choice], runs: Sequence[Facets]) -> None:
    """Refuse a value that no run has, with the choices."""
    for choice in choices:
        there = list(dict.fromkeys(run[choice.name] for run in runs if choice.name in run))
        for value in choice.values:
            one = Choice(choice.name, (value,))
            if all(one.rank(given) is None for given in there):
                raise ReportError(
                    f"no finished run has {choice.name}={value}; there are"
                    f" {_listed(choice.name, there)}"
                )


def chosen(runs: Mapping[str, Facets], choices: Iterable[Choice]) -> dict[str, Facets]:
    """Return the runs that are asked for.

    One that has no such setting is among them if its kind has none: `model.n_components=16` leaves
    the runs of `knn` alone.
    """
    kept = dict(runs)
    for choice in choices:
        name = choice.name
        kinds = {_group(name, run) for run in kept.values() if name in run}
        kept = {
            key: run
            for key, run in kept.items()
            if (
                choice.rank(run[name]) is not None
                if name in run
                else _group(name, run) not in kinds
            )
        }
    return kept


class Seen:
    """What runs have in common, and where they differ otherwise than by the table's axes.

    Data may differ between categories only, weights between backbones (random ones between seeds,
    too), a model's settings between models, and other settings nowhere, unless they are an axis.
    """

    def __init__(self, runs: Iterable[Facets], axes: Sequence[str], *, timed: bool = False) -> None:
        self._axes = axes
        self._values: dict[tuple[str, tuple[str, ...]], dict[str | None, None]] = {}
        runs = list(runs)
        told = dict.fromkeys(name for run in runs for name in run)
        free = [name for name in _FREE if not (timed and name == MACHINE)]
        self._names = [name for name in told if name not in (*axes, *free)]
        for run in runs:
            for name in self._names:
                values = self._values.setdefault((name, _group(name, run, axes)), {})
                values[run.get(name)] = None

    def agrees(self, run: Facets) -> bool:
        """Tell whether one more run would differ in nothing; what it does not know, it need not."""
        for name in self._names:
            values = self._values.get((name, _group(name, run, self._axes)))
            if run.get(name) and values and run[name] not in values:
                return False
        return True

    def check(self) -> None:
        """Refuse runs that differ otherwise than by the axes."""
        differing = {key: values for key, values in self._values.items() if len(values) > 1}
        # What is computed from the others says nothing that they do not.
        told = {k: v for k, v in differing.items() if k[0] != "identity"} or differing
        if told:
            names = dict.fromkeys(name for name, _ in told)
            lines = (
                f"{name} ({_listed(name, list(values))}){_of(group)}"
                for (name, group), values in list(told.items())[:_MANY]
            )
            raise ReportError(
                f"the runs differ in {'; '.join(lines)}: choose with"
                f" {' '.join(f'{name}=VALUE' for name in names)}, or make it rows= or columns="
            )

    def common(self) -> dict[str, str]:
        """Return what every run tells alike, however they are laid out."""
        alike: dict[str, str] = {}
        for name in self._names:
            values = {
                value for key, those in self._values.items() if key[0] == name for value in those
            }
            if len(values) == 1 and (value := values.pop()) is not None:
                alike[name] = value
        return alike


def _group(name: str, run: Facets, axes: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the values of the facets between which this one may differ."""
    return tuple(run.get(key, "") for key in _determinants(name, axes, run))


def _determinants(name: str, axes: Sequence[str], run: Facets) -> tuple[str, ...]:
    if name == "identity":
        return (*CORE, *axes)
    if name in DATA:
        return ("dataset", "category", *(axis for axis in axes if axis in DATA))
    if name == "weights_digest":
        seed = ("seed",) if run["backbone"].endswith("(random weights)") else ()
        built = ("backbone_factory", "backbone.arguments.")
        return ("backbone", *seed, *(axis for axis in axes if axis.startswith(built)))
    for group in ("dataset", "model", "backbone"):
        if name.startswith((f"{group}.", f"{group}_")):
            return (group, *(axis for axis in axes if axis == f"{group}_factory"))
    return ()


def _of(group: tuple[str, ...]) -> str:
    return f" of {'/'.join(group[:2])}" if group else ""


def _listed(name: str, values: Sequence[str | None]) -> str:
    words = [in_words(name, value) for value in sorted(values, key=natural)]
    more = f", and {len(words) - _MANY} more" if len(words) > _MANY else ""
    return ", ".join(words[:_MANY]) + more
