"""The command line of the data: `python -m harness.data fetch|verify|synthetic dataset=NAME`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from harness.config import DatasetConfig
from harness.data.fetch import fetch
from harness.data.listing import DataError
from harness.data.load import Survey, dataset_settings, verify
from harness.data.official import ARCHIVES
from harness.data.readers import expected_root
from harness.data.synthetic import Plan, write_synthetic
from harness.system.terminal import say

USAGE = """\
python -m harness.data fetch     dataset=NAME [dataset.root=PATH] [url=MIRROR]
python -m harness.data verify    dataset=NAME [category=NAME,...] [dataset.root=PATH]
                                 [dataset.official=false] [seed=42]
python -m harness.data synthetic dataset=NAME dataset.root=PATH [scale=0.02] [side=64] [seed=0]
"""
_COLUMNS = "{:<14}{:>7}{:>8}{:>11}{:>7}  {:<12}  {}"
_HEADINGS = ("category", "train", "normal", "anomalous", "masks", "fingerprint", "state")

Values = dict[str, str]
Number = TypeVar("Number", int, float)


def main(arguments: list[str]) -> int:
    """Run one command; return the exit status: 1 if the data or a setting are bad."""
    if not arguments or arguments[0] not in _COMMANDS:
        say(*USAGE.splitlines(), error=True)
        return 2
    command, keys = _COMMANDS[arguments[0]]
    try:
        return command(_values(arguments[1:], keys))
    except DataError as error:
        say(f"error: {error}", error=True)
        return 1


def _values(arguments: list[str], keys: list[str]) -> Values:
    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in keys:
            raise DataError(f"'{argument}' must be KEY=VALUE with a key of {', '.join(keys)}")
        values[key] = value
    if "dataset" not in values:
        raise DataError("dataset=NAME is missing")
    return values


def _fetch(values: Values) -> int:
    dataset = _dataset(values)
    if dataset.name not in ARCHIVES:
        raise DataError(f"dataset must be one of {', '.join(ARCHIVES)}, got '{dataset.name}'")
    archive = ARCHIVES[dataset.name]
    archive = archive._replace(url=values.get("url", archive.url))
    root = expected_root(dataset)
    say(f"{dataset.title}: {archive.licence} (see {archive.home})")
    say(f"from {archive.url}", f"to   {root}")
    columns = BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress("[progress.description]{task.description}", *columns) as bar:
        task = bar.add_task("downloading", total=None)
        fetch(
            archive,
            root,
            categories=dataset.categories,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    say(f"done; check it with `python -m harness.data verify dataset={dataset.name}`")
    return 0


def _verify(values: Values) -> int:
    dataset = _dataset(values)
    chosen = values["category"].split(",") if "category" in values else dataset.categories
    seed = _number(values, "seed", default=42)
    say(_COLUMNS.format(*_HEADINGS))
    surveys = []
    for category in chosen:
        surveys.append(verify(dataset, category, seed=seed))
        say(_row(surveys[-1]))
    for survey in surveys:
        for problem in survey.problems:
            say(f"{survey.category}: {'broken' if problem.fatal else 'differs'}: {problem}")
    failed = [s for s in surveys if s.broken or (s.problems and dataset.official)]
    say(f"{len(chosen) - len(failed)} of {len(chosen)} categories passed")
    return 1 if failed else 0


def _row(survey: Survey) -> str:
    state = "broken" if survey.broken else "unofficial" if survey.problems else "official"
    return _COLUMNS.format(survey.category, *survey.counts, survey.fingerprint[:12], state)


def _synthetic(values: Values) -> int:
    if "dataset.root" not in values:
        raise DataError("dataset.root=PATH is missing")
    plan = Plan(
        scale=_number(values, "scale", default=Plan.scale),
        side=_number(values, "side", default=Plan.side),
        seed=_number(values, "seed", default=Plan.seed),
    )
    root = write_synthetic(Path(values["dataset.root"]), values["dataset"], plan=plan)
    say(f"written to {root}")
    return 0


def _dataset(values: Values) -> DatasetConfig:
    dataset = dataset_settings(values["dataset"], root=values.get("dataset.root"))
    official = values.get("dataset.official", str(dataset.official)).lower()
    if official not in ("true", "false"):
        raise DataError(f"dataset.official must be true or false, got '{official}'")
    return replace(dataset, official=official == "true")


def _number(values: Values, key: str, *, default: Number) -> Number:
    """Read a number of the default's type."""
    try:
        return type(default)(values.get(key, default))
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise DataError(f"{key} must be {kind}, got '{values[key]}'") from None


_COMMANDS = {
    "fetch": (_fetch, ["dataset", "dataset.root", "url"]),
    "verify": (_verify, ["dataset", "category", "dataset.root", "dataset.official", "seed"]),
    "synthetic": (_synthetic, ["dataset", "dataset.root", "scale", "side", "seed"]),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
