"""The declaration of a table: one `conf/experiment/<name>.yaml`, read as plain YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

GROUPS = ("dataset", "backbone", "model", "features")
"""The config groups whose choices determine a number."""


class ReportError(ValueError):
    """A table that cannot be made, and why, in one line."""


@dataclass(frozen=True)
class Table:
    """One declared table: the cells it has and the settings its runs must have.

    Attributes
    ----------
    name : str
        The experiment's name, the README marker's and the CSV file's.
    dataset, backbone, model : str
        The choices of the config groups.
    seed : int
        The seed of its runs.
    title : str
        The dataset's name for people.
    categories : tuple of str
        The rows, in order.
    config : dict
        The configuration that its runs must have, nested as in `conf/`.
    """

    name: str
    dataset: str
    backbone: str
    model: str
    seed: int
    title: str
    categories: tuple[str, ...]
    config: dict[str, Any]

    @property
    def command(self) -> str:
        """The sweep that fills the table."""
        return f"python -m harness.run -m experiment={self.name}"

    def expected(self, setting: str) -> Any:
        """Look up the value that a run's setting must have.

        Parameters
        ----------
        setting : str
            A dotted key of `Record.settings`: `image_size`, `model.n_components`.

        Raises
        ------
        KeyError
            The table's configuration has no such setting.
        """
        node: Any = self.config
        for key in setting.split("."):
            node = node[key] if key in node else node["params"][key]
        return node


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
        A file it needs is missing, or a category of it is not one of the dataset's.
    """
    experiment = _load(conf / "experiment" / f"{name}.yaml")
    base = _load(conf / "config.yaml")
    choices = {**_choices(base), **_choices(experiment)}
    config = _plain(base) | {
        group: _load(conf / group / f"{choices[group]}.yaml") for group in GROUPS
    }
    config = _merge(config, _plain(experiment))
    dataset = config["dataset"]
    return Table(
        name=name,
        dataset=dataset["name"],
        backbone=config["backbone"]["name"],
        model=config["model"]["name"],
        seed=config["seed"],
        title=dataset["title"],
        categories=tuple(str(category) for category in dataset["categories"]),
        config=config,
    )


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ReportError(f"{path} is missing, a declared table needs it")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _choices(config: Mapping[str, Any]) -> dict[str, str]:
    """Read the group choices of a defaults list: `override /dataset: mvtec` or `dataset: mvtec`."""
    pairs = [
        pair
        for entry in config.get("defaults", ())
        if isinstance(entry, dict)
        for pair in entry.items()
    ]
    named = {key.removeprefix("override ").removeprefix("/"): value for key, value in pairs}
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
