"""What an experiment declares as a table: the sweep of `conf/experiment/<name>.yaml`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from harness.compose import ComposeError, Sweep, sweeps_of
from harness.config import BackboneConfig, Config
from harness.system.files import open_regular
from harness.system.terminal import from_cell, one_line

T = TypeVar("T")


RESAMPLES = 10_000
"""Bootstrap resamples of every interval."""

INTERVAL_METRIC = "image_auroc"
"""The one metric with intervals: pixel metrics are no function of per-image scores, and the best F1
is chosen on the images that are resampled (`benchmarks/intervals.py`)."""


class ReportError(ValueError):
    """A table that cannot be made, and why, in one line."""


_DAMAGES = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, csv.Error)


@contextmanager
def reading(path: Path, *, errors: str = "strict", newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file and read it in the block; whatever is wrong with it names it."""
    try:
        with io.TextIOWrapper(open_regular(path), "utf-8", errors, newline) as file:
            yield file
    except ReportError:
        raise
    except FileNotFoundError:
        raise ReportError(f"{path} is missing") from None
    except _DAMAGES as error:
        raise ReportError(f"{path} cannot be read ({one_line(error)})") from error


def read_csv(path: Path, header: tuple[str, ...], line: Callable[..., T], *, of: str) -> list[T]:
    """Read a CSV file with exactly these columns, each line by a function of its cells."""
    with reading(path, errors="surrogatepass", newline="") as file:
        reader, found = csv.reader(file), []
        if tuple(next(reader, ())) != header:
            raise ReportError(f"{path} does not have the columns {', '.join(header)}")
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            try:
                if len(cells) != len(header):
                    raise ValueError(f"{len(cells)} cells under {len(header)} titles")
                found.append(line(*map(from_cell, cells)))
            except ReportError as error:
                raise ReportError(f"{where}: {error}") from None
            except (ValueError, LookupError) as error:
                raise ReportError(f"{where} is not a line of {of} ({one_line(error)})") from None
    return found


class Cell(NamedTuple):
    """Which job of a table; the value is that of the swept setting, empty where none is."""

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
    # What is swept beside category and seed, as runs record it; empty for none.
    axis: str
    # The configuration of each value of it, nested as in `conf/`, with the first category and seed.
    configs: dict[str, dict[str, Any]]

    @property
    def command(self) -> str:
        """The sweep that fills the table."""
        return f"python -m harness.run -m experiment={self.name}"

    @property
    def headline(self) -> bool:
        """Whether the table has one job per category, and so a column per metric."""
        return len(self.seeds) == 1 and not self.axis

    @property
    def metric(self) -> str:
        """What a table shows that has no column per metric: a localizer moves no image metric."""
        return "pixel_auroc" if self.axis == "localizer" else INTERVAL_METRIC

    @cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """How runs of each value name dataset, model and backbone."""
        return {
            value: {group: name_of(group, config) for group in GROUPS}
            for value, config in self.configs.items()
        }

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the first value."""
        return next(iter(self.configs.values()))

    @property
    def columns(self) -> dict[str, str]:
        """The title of each swept value."""
        if self.axis in GROUPS:
            return {value: names[self.axis] for value, names in self.names.items()}
        return {value: f"{self.axis} = {value}" if self.axis else "" for value in self.configs}

    def choices(self, group: str) -> tuple[str, ...]:
        """Name the datasets, backbones or models of the table, as its runs are named."""
        return tuple(dict.fromkeys(names[group] for names in self.names.values()))

    def choice(self, group: str) -> str:
        """Name the dataset of the table, or the backbone or the model of a table of one."""
        return self.choices(group)[0]

    def cells(self) -> list[Cell]:
        """List the table's jobs in the order of its results file."""
        return [Cell(c, s, v) for c in self.categories for v in self.configs for s in self.seeds]


GROUPS = ("dataset", "model", "backbone")
"""Groups of `conf/` whose choices runs record by name."""


def name_of(group: str, config: Mapping[str, Any]) -> str:
    """Name the dataset, backbone or model of a configuration, as its runs are named."""
    chosen = config[group]
    return BackboneConfig(**chosen).label if group == "backbone" else str(chosen["name"])


def expected(config: Mapping[str, Any], setting: str) -> Any:
    """Look up a setting by its key in `Record.settings`; raises `KeyError` where there is none."""
    *groups, key = setting.split(".")
    for group in groups:
        config = config[group]
    return config[key] if key in config else config["params"][key]


class Tables(dict[str, Table]):
    """The declared tables by name, in alphabetical order.

    `refused` has the other experiments, and in one line why a table cannot show them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, str] = {}


def read_tables(conf: Path, names: Iterable[str] = ()) -> Tables:
    """Read the declared tables of a `conf/` folder, all or those named; there must be one."""
    paths = {path.stem: path for path in sorted(conf.glob("experiment/*.yaml"))}
    if not paths:
        raise ReportError(
            f"no experiment in {conf / 'experiment'}: run this in a checkout's root; for a page of"
            " your own runs, `python -m harness.report show format=html > PAGE` works anywhere"
        )
    for name in names:
        if name not in paths:
            raise ReportError(f"no table {name!r}; there are {', '.join(paths)}")
    tables, names = Tables(), list(names) or list(paths)
    for name, sweep in sweeps_of(conf, names).items():
        where = f"conf/experiment/{name}.yaml"
        try:
            if isinstance(sweep, ComposeError):
                raise ReportError(f"{where}: {sweep}")
            tables[name] = _table(name, sweep, where)
        except ReportError as error:
            tables.refused[name] = str(error)
    return tables


def read_table(conf: Path, name: str) -> Table:
    """Read one declared table; raises `ReportError` where there is none."""
    tables = read_tables(conf, [name])
    if name in tables.refused:
        raise ReportError(tables.refused[name])
    return tables[name]


def _table(name: str, sweep: Sweep, where: str) -> Table:
    axes = [key for key in sweep.swept if key not in ("category", "seed")]
    if len(axes) > 1:
        raise ReportError(f"{where} sweeps {', '.join(axes)}; a table shows one setting at most")
    axis, jobs = "".join(axes), sweep.jobs
    values, first = sweep.swept.get(axis, ("",)), jobs[0]
    swept = f"{where} sweeps {axis} ({', '.join(values)})"
    if len({job.dataset.name for job in jobs}) > 1:
        raise ReportError(f"{swept}; a table shows one dataset")
    each = [_resolved(j) for j in jobs if (j.category, j.seed) == (first.category, first.seed)]
    shown = [[name_of(axis, one)] if axis in GROUPS else one for one in each]
    if any(one in shown[:place] for place, one in enumerate(shown)):
        raise ReportError(f"{swept}; its values must give different runs")
    found = {job.category for job in jobs}
    return Table(
        name=name,
        title=first.dataset.title,
        categories=tuple(one for one in first.dataset.categories if one in found),
        seeds=tuple(dict.fromkeys(job.seed for job in jobs)),
        axis=axis.replace("model.params.", "model."),
        configs=dict(zip(values, each, strict=True)),
    )


def _resolved(config: Config) -> dict[str, Any]:
    """Return a configuration as its runs record it: the localizer and layers of its model."""
    values = asdict(config)
    layers = config.model.layers.get(config.backbone.name, [])
    model = values["model"] | {"layers": layers}
    return values | {"localizer": config.job().localizer, "model": model}
