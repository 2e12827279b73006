"""The declaration of a table: one `conf/experiment/<name>.yaml`, read as plain YAML."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import yaml

from harness.atomic import DamagedError, open_regular
from harness.config import BackboneConfig

GROUPS = ("dataset", "backbone", "model", "features")
"""The config groups whose choices may determine a number."""


class ReportError(ValueError):
    """A table that cannot be made, and why, in one line."""


_CAPTIONED = ("image_size", "center_crop", "localizer")
_DAMAGES = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, csv.Error)


@contextmanager
def reading(path: Path, *, errors: str = "strict", newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file and read it in the block; whatever is wrong with it names it.

    Parameters
    ----------
    path : Path
        A regular file, in UTF-8.
    errors, newline
        As `open` takes them.

    Raises
    ------
    ReportError
        If it is missing, is no regular file, or cannot be read and parsed.
    """
    try:
        text = io.TextIOWrapper(open_regular(path), "utf-8", errors, newline)
        with text as file:
            yield file
    except ReportError:
        raise
    except FileNotFoundError:
        raise ReportError(f"{path} is missing") from None
    except DamagedError as error:
        raise ReportError(str(error)) from None
    except (*_DAMAGES, yaml.YAMLError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReportError(f"{path} cannot be read ({reason})") from error


class Cell(NamedTuple):
    """Which job of a table.

    Attributes
    ----------
    category : str
        The row.
    seed : int
        The run's seed; tables over several seeds show their mean.
    value : str
        The value of the swept setting; empty where the table sweeps none.
    """

    category: str
    seed: int
    value: str


@dataclass(frozen=True)
class Table:
    """One declared table: the cells it has and the settings its runs must have.

    Attributes
    ----------
    name : str
        The experiment's name, the README marker's and the CSV file's.
    title : str
        The dataset's name for people.
    categories : tuple of str
        The rows, in order.
    seeds : tuple of int
        The seeds of each row.
    axis : str
        The setting that the experiment sweeps beside category and seed; empty for none.
    values : tuple of str
        The values of that setting, in order; `("",)` without one.
    config : dict
        The configuration that its runs must have, nested as in `conf/`.
    """

    name: str
    title: str
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    axis: str
    values: tuple[str, ...]
    config: dict[str, Any]

    @property
    def command(self) -> str:
        """The sweep that fills the table."""
        return f"python -m harness.run -m experiment={self.name}"

    @property
    def headline(self) -> bool:
        """Whether the table has one job per category, and so a column per metric."""
        return len(self.seeds) == 1 and not self.axis

    def choice(self, group: str) -> str:
        """Name the dataset, backbone or model of the table, as its runs are named."""
        return self._backbone.label if group == "backbone" else str(self.config[group]["name"])

    @property
    def random_weights(self) -> bool:
        """Whether the seed draws the backbone's weights."""
        return self._backbone.random

    @property
    def _backbone(self) -> BackboneConfig:
        return BackboneConfig(**self.config["backbone"])

    def factory(self, group: str) -> str:
        """Return what builds the backbone or the model of the table, as `module:name`."""
        return str(self.config[group]["factory"])

    def cells(self) -> list[Cell]:
        """List the table's jobs in the order of its results file."""
        return [
            Cell(category, seed, value)
            for category in self.categories
            for value in self.values
            for seed in self.seeds
        ]

    def expected(self, setting: str) -> Any:
        """Look up the value that a run's setting must have.

        Parameters
        ----------
        setting : str
            A key of `Record.settings`: `image_size`, `model.n_components`.

        Raises
        ------
        KeyError
            The table's configuration has no such setting.
        """
        *groups, key = setting.split(".")
        home = self.config
        for group in groups:
            home = home[group]
        return home[key] if key in home else home["params"][key]


def read_tables(conf: Path) -> dict[str, Table]:
    """Read every declared table of a `conf/` folder, by name, in alphabetical order."""
    paths = sorted(conf.glob("experiment/*.yaml"))
    if not paths:
        raise ReportError(f"no experiment in {conf / 'experiment'}: run this in a checkout's root")
    return {path.stem: read_table(conf, path.stem) for path in paths}


def read_table(conf: Path, name: str) -> Table:
    """Read one declared table.

    Parameters
    ----------
    conf : Path
        The folder with `config.yaml` and the groups.
    name : str
        The experiment.

    Raises
    ------
    ReportError
        A file it needs is missing or damaged, or it sweeps what a table cannot show.
    """
    try:
        table = _declared(conf, name)
        missing = set(GROUPS) - set(table.config)
        _ = [table.choice(group) for group in GROUPS[:3]]
        missing |= set(_CAPTIONED) - set(table.config)
    except ReportError:
        raise
    except _DAMAGES as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReportError(
            f"{name}.yaml, or a file it needs, is no experiment ({reason})"
        ) from error
    if missing:
        raise ReportError(f"{name}.yaml and config.yaml say no {', '.join(sorted(missing))}")
    return table


def _declared(conf: Path, name: str) -> Table:
    experiment, base = _load(conf / "experiment" / f"{name}.yaml"), _load(conf / "config.yaml")
    choices = _choices(base) | _choices(experiment)
    groups = {
        group: _load(conf / group / f"{choices[group]}.yaml")
        for group in GROUPS
        if group in choices
    }
    config = _merge(_plain(base) | groups, _plain(experiment))
    swept = _swept(experiment)
    category, seed = swept.pop("category", "glob(*)"), swept.pop("seed", config["seed"])
    if len(swept) > 1:
        raise ReportError(f"{name} sweeps {', '.join(swept)}; a table shows one setting at most")
    axis = next(iter(swept), "")
    return Table(
        name=name,
        title=config["dataset"]["title"],
        categories=_categories(name, category, config["dataset"]["categories"]),
        seeds=tuple(int(item) for item in _items(seed)),
        axis=axis,
        values=_items(swept[axis]) if axis else ("",),
        config=config,
    )


def _load(path: Path) -> dict[str, Any]:
    with reading(path) as file:
        config = yaml.safe_load(file) or {}
        if not isinstance(config, dict):
            raise ReportError(f"{path} must hold keys and values, got {type(config).__name__}")
        return config


def _choices(config: Mapping[str, Any]) -> dict[str, str]:
    """Read the group choices of a defaults list: `override /dataset: mvtec`, `dataset: mvtec`."""
    entries = [entry for entry in config.get("defaults", ()) if isinstance(entry, dict)]
    named = {
        key.removeprefix("override ").removeprefix("/"): value
        for entry in entries
        for key, value in entry.items()
    }
    return {group: named[group] for group in GROUPS if group in named}


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what is neither a defaults list nor Hydra's own."""
    return {key: value for key, value in config.items() if key not in ("defaults", "hydra")}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `above` over `below`, group by group."""
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _swept(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sweep's parameters but those that choose from a group."""
    params = experiment.get("hydra", {}).get("sweeper", {}).get("params", {})
    return {key: value for key, value in params.items() if key not in GROUPS}


def _items(swept: Any) -> tuple[str, ...]:
    """Split a sweep's values: `8,16,32`."""
    return tuple(item.strip() for item in str(swept).split(","))


def _categories(name: str, swept: Any, every: list[str]) -> tuple[str, ...]:
    if str(swept) == "glob(*)":
        return tuple(every)
    unknown = sorted(set(_items(swept)) - set(every))
    if unknown:
        raise ReportError(
            f"{name} has categories {', '.join(unknown)}; there are {', '.join(every)}"
        )
    return tuple(category for category in every if category in _items(swept))
