"""What an experiment declares as a table: the sweep of `conf/experiment/<name>.yaml`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from harness.compose import Composed, ComposeError, Sweep, sweeps_of
from harness.config import BackboneConfig
from harness.system.files import DamagedError, open_regular


class ReportError(ValueError):
    """A table that cannot be made, and why, in one line."""


_DAMAGES = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, csv.Error)


@contextmanager
def reading(path: Path, *, errors: str = "strict", newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file and read it in the block; whatever is wrong with it names it."""
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
    except _DAMAGES as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReportError(f"{path} cannot be read ({reason})") from error


class Cell(NamedTuple):
    """Which job of a table."""

    category: str
    seed: int
    value: str


@dataclass(frozen=True)
class Table:
    """One declared table: the cells it has and the settings its runs must have."""

    name: str
    title: str
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    axis: str
    values: tuple[str, ...]
    config: dict[str, Any]
    jobs: tuple[Composed, ...]

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
        """Look up the value that a run's setting must have."""
        *groups, key = setting.split(".")
        home = self.config
        for group in groups:
            home = home[group]
        return home[key] if key in home else home["params"][key]


class Tables(dict[str, Table]):
    """The declared tables by name, in alphabetical order."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, str] = {}


def read_tables(conf: Path) -> Tables:
    """Read every declared table of a `conf/` folder."""
    return _read(conf, experiments(conf))


def read_table(conf: Path, name: str) -> Table:
    """Read one declared table."""
    names = experiments(conf)
    if name not in names:
        raise ReportError(f"no table {name!r}; there are {', '.join(names)}")
    tables = _read(conf, [name])
    if name in tables.refused:
        raise ReportError(tables.refused[name])
    return tables[name]


def experiments(conf: Path) -> list[str]:
    """List the experiments of a `conf/` folder, in alphabetical order; there must be one."""
    paths = sorted(conf.glob("experiment/*.yaml"))
    if not paths:
        raise ReportError(f"no experiment in {conf / 'experiment'}: run this in a checkout's root")
    return [path.stem for path in paths]


def _read(conf: Path, names: Iterable[str]) -> Tables:
    tables, names = Tables(), list(names)
    # Hydra would wait for a pipe.
    whole = [name for name in names if (conf / "experiment" / f"{name}.yaml").is_file()]
    for name in sorted({*names} - {*whole}):
        tables.refused[name] = f"conf/experiment/{name}.yaml is no regular file"
    for name, sweep in sweeps_of(conf, whole).items():
        try:
            tables[name] = _table(name, sweep)
        except ReportError as error:
            tables.refused[name] = str(error)
    return tables


def _table(name: str, sweep: Sweep | ComposeError) -> Table:
    if isinstance(sweep, ComposeError):
        raise ReportError(f"conf/experiment/{name}.yaml: {sweep}")
    configs = [job.config for job in sweep.jobs]
    config = asdict(configs[0])
    axis = _axis(name, sweep, config)
    found = {str(one.category) for one in configs}
    return Table(
        name=name,
        title=config["dataset"]["title"],
        categories=tuple(one for one in config["dataset"]["categories"] if one in found),
        seeds=tuple(dict.fromkeys(one.seed for one in configs)),
        axis=axis.replace("model.params.", "model."),  # as runs record it
        values=sweep.swept[axis] if axis else ("",),
        config=config,
        jobs=sweep.jobs,
    )


def _axis(name: str, sweep: Sweep, config: dict[str, Any]) -> str:
    """Return the setting that is swept beside category and seed, if there is one."""
    axes = [key for key in sweep.swept if key not in ("category", "seed")]
    if len(axes) > 1:
        raise ReportError(
            f"conf/experiment/{name}.yaml sweeps {', '.join(axes)};"
            " a table shows one setting at most"
        )
    axis = "".join(axes)
    jobs = [job.config for job in sweep.jobs]
    shown = {(job.dataset.name, job.backbone.label, job.model.name) for job in jobs}
    if len(shown) > 1 or isinstance(config.get(axis), dict):
        raise ReportError(
            f"conf/experiment/{name}.yaml sweeps {axis} ({', '.join(sweep.swept[axis])});"
            " a table shows one dataset, backbone and model"
        )
    return axis
