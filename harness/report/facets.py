"""What tells runs apart: names, settings and digests, how they are chosen, where they conflict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from harness.record import StoredRun
from harness.report.declaration import GROUPS, ReportError
from harness.report.selection import RANDOM, setting_values

CORE = ("dataset", "category", "model", "backbone", "seed")
DATA = ("official", "data_fingerprint")
DIGESTS = ("data_fingerprint", "weights_digest", "identity", "commit", "run")
"""Chosen by how they begin."""
MACHINE = "machine"
# What runs of one cell may differ in: numbers do not depend on it.
_FREE = ("seed", "commit", MACHINE, "run")
_FACTORIES = ("model_factory", "backbone_factory")
_ITEM = re.compile(r"(?:\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^,])+")
_MANY = 8

Facets = Mapping[str, str]
"""All that a run can be chosen or laid out by; a setting that it does not record is absent."""


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
    return "official" if key == "dataset.official" else key.replace("model.params.", "model.")


def check_key(key: str, known: Iterable[str], *, what: str) -> None:
    """Refuse a key that nothing has, with the choices."""
    if key not in (known := tuple(known)):
        raise ReportError(f"unknown {what} {key!r}; choose from {', '.join(known)}")


def check_choices(choices: Iterable[Choice], runs: Sequence[Facets]) -> None:
    """Refuse a value that no run has, with the choices."""
    for name, values in choices:
        there = list(dict.fromkeys(run[name] for run in runs if name in run))
        for value in values:
            if all(Choice(name, (value,)).rank(given) is None for given in there):
                listed = _listed(name, there)
                raise ReportError(f"no finished run has {name}={value}; there are {listed}")


def chosen(
    runs: Sequence[tuple[StoredRun, Facets]], choices: Iterable[Choice]
) -> Sequence[tuple[StoredRun, Facets]]:
    """Return the runs that are asked for.

    One that has no such setting is among them if its kind has none: `model.n_components=16` leaves
    the runs of `knn` alone.
    """
    for choice in choices:
        name = choice.name
        having = {_group(name, of) for _, of in runs if name in of}
        runs = [
            (run, of)
            for run, of in runs
            if (
                _group(name, of) not in having
                if name not in of
                else choice.rank(of[name]) is not None
            )
        ]
    return runs


def in_common(
    runs: Sequence[Facets], axes: Sequence[str], *, timed: bool = False
) -> dict[str, str]:
    """Return what all runs have in common; refuse those that differ otherwise than by the axes.

    Data may differ between categories only, weights between backbones (random ones between seeds,
    too), a model's settings between models, the localizer between models on pooled features and on
    maps, and other settings nowhere, unless they are an axis.
    """
    free = {*axes, *(name for name in _FREE if not (timed and name == MACHINE))}
    common: dict[str, str] = {}
    differing: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for run in runs for name in run if name not in free):
        groups: dict[tuple[str, ...], set[str | None]] = {}
        for run in runs:
            groups.setdefault(_group(name, run, axes), set()).add(run.get(name))
        for group, values in groups.items():
            if len(values) > 1:
                of = f" of {'/'.join(group[:2])}" if any(group) else ""
                differing.setdefault(name, []).append(f"{name} ({_listed(name, values)}){of}")
        first, *others = set[str | None]().union(*groups.values())
        if first is not None and not others:
            common[name] = first
    if len(differing) > 1:  # what is computed from the others says nothing that they do not
        differing.pop("identity", None)
    if differing:
        words = [text for texts in differing.values() for text in texts]
        raise ReportError(
            f"the runs differ in {'; '.join(words[:_MANY])}: choose with"
            f" {' '.join(f'{name}=VALUE' for name in differing)}, or make it rows= or columns="
        )
    return common


def _group(name: str, run: Facets, axes: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the values of the facets between which this one may differ."""
    return tuple(run.get(key, "") for key in _determinants(name, axes, run))


def _determinants(name: str, axes: Sequence[str], run: Facets) -> tuple[str, ...]:
    if name == "identity":
        return (*CORE, *axes)
    if name == "localizer":  # a model on maps makes its own, and has none
        return ("model.layers",)
    if name in DATA:
        return ("dataset", "category", *(axis for axis in axes if axis in DATA))
    if name == "weights_digest":
        seed = ("seed",) if run["backbone"].endswith(RANDOM) else ()
        built = ("backbone_factory", "backbone.arguments.")
        return ("backbone", *seed, *(axis for axis in axes if axis.startswith(built)))
    for group in GROUPS:
        if name.startswith((f"{group}.", f"{group}_")):
            return (group, *(axis for axis in axes if axis == f"{group}_factory"))
    return ()


def _listed(name: str, values: Iterable[str | None]) -> str:
    words = [in_words(name, value) for value in sorted(values, key=natural)]
    more = f", and {len(words) - _MANY} more" if len(words) > _MANY else ""
    return ", ".join(words[:_MANY]) + more
