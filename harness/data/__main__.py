"""The command line of the data: `python -m harness.data fetch|verify|synthetic dataset=NAME`."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from harness.config import DatasetConfig
from harness.data.fetch import fetch
from harness.data.listing import DataError, patterns_of, write_list
from harness.data.load import SEED, dataset_settings, verify
from harness.data.official import ARCHIVES
from harness.data.readers import expected_root
from harness.data.synthetic import Plan, write_synthetic
from harness.system.arguments import read_value
from harness.system.terminal import say

USAGE = """\
python -m harness.data fetch     dataset=NAME [dataset.root=PATH] [url=MIRROR]
python -m harness.data verify    dataset=NAME [category=NAME,...] [dataset.root=PATH]
                                 [dataset.official=false] [dataset.KEY=VALUE] [seed=42]
                                 [write_exclude=FILE]
python -m harness.data synthetic dataset=NAME dataset.root=PATH [scale=0.02] [side=64] [seed=0]
"""
_SETTINGS = {f"dataset.{field.name}": str(field.type) for field in fields(DatasetConfig)}
_COLUMNS = "{:<14}{:>7}{:>8}{:>11}{:>7}  {:<12}  {}"
_HEADINGS = ("category", "train", "normal", "anomalous", "masks", "fingerprint", "state")

Values = dict[str, str]


def main(arguments: list[str]) -> int:
    """Run one command; return the exit status: 1 if the data or a setting are bad."""
    if not arguments or arguments[0] not in _COMMANDS:
        say(*USAGE.splitlines(), error=True)
        return 2
    command, keys = _COMMANDS[arguments[0]]
    try:
        return command(_values(arguments[1:], keys))
    except ValueError as error:
        say(f"error: {error}", error=True)
        return 1


def _values(arguments: list[str], keys: list[str]) -> Values:
    values = {}
    given = iter(arguments)
    for argument in given:
        key, equals, value = argument.partition("=")
        if key == "--write-exclude":  # written as an option by many
            key, equals, value = "write_exclude", "=", value if equals else next(given, "")
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
    seed = read_value("seed", values.get("seed", str(SEED)), "int")
    say(_COLUMNS.format(*_HEADINGS))
    surveys = []
    for category in chosen:
        surveys.append(verify(dataset, category, seed=seed))
        survey = surveys[-1]
        state = "broken" if survey.broken else "unofficial" if survey.problems else "official"
        say(_COLUMNS.format(category, *survey.counts, survey.fingerprint[:12], state))
    for survey in surveys:
        for problem in survey.problems:
            say(f"{survey.category}: {'broken' if problem.fatal else 'differs'}: {problem}")
        for note in survey.notes:
            say(f"{survey.category}: note: {note}")
    failed = [s for s in surveys if s.broken or (s.problems and s.official)]
    if "write_exclude" in values:
        path = Path(values["write_exclude"])
        broken = {survey.category: survey.problems for survey in surveys}
        count = write_list(path, kept=patterns_of(dataset), broken=broken)
        say(f"{count} files written to {path}; dataset.exclude=@{path} leaves them out")
    say(f"{len(chosen) - len(failed)} of {len(chosen)} categories passed")
    return 1 if failed else 0


def _synthetic(values: Values) -> int:
    if "dataset.root" not in values:
        raise DataError("dataset.root=PATH is missing")
    numbers = {
        field.name: read_value(field.name, values[field.name], str(field.type))
        for field in fields(Plan)
        if field.name in values
    }
    root = Path(values["dataset.root"])
    write_synthetic(root, values["dataset"], plan=Plan(**numbers))
    say(f"written to {root}")
    return 0


def _dataset(values: Values) -> DatasetConfig:
    given = {
        key.removeprefix("dataset."): read_value(key, values[key], _SETTINGS[key])
        for key in values
        if key in _SETTINGS
    }
    return replace(dataset_settings(values["dataset"]), **given)


_COMMANDS = {
    "fetch": (_fetch, ["dataset", "dataset.root", "url"]),
    "verify": (_verify, ["dataset", "category", *_SETTINGS, "seed", "write_exclude"]),
    "synthetic": (_synthetic, ["dataset", "dataset.root", "scale", "side", "seed"]),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
