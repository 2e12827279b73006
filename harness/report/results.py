"""The folder `results/`, as a commit holds it: rows of jobs, their scores, published numbers."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harness.metrics import image_metrics
from harness.metrics.registry import HEADLINE, METRICS
from harness.record import OLDEST_SCHEMA, SCHEMA_VERSION, ImageScore, Record, StoredRun, finite
from harness.report.declaration import ReportError, read_csv, reading
from harness.system.terminal import csv_line, from_cell, to_cell

FINISHED = "finished"

# How the names of columns begin that make one field.
_NESTED = {
    "setting": "settings",
    "metric": "metrics",
    "low": "low",
    "high": "high",
    "undefined": "undefined",
    "seconds": "durations",
}
_INTEGERS = ("schema", "seed", "n_train", "n_test_normal", "n_test_anomalous")
# Where a path from a root or a home begins, or an address: what follows names people and machines.
_PLACE = re.compile(
    r"(?<![\w.)\]/])/(?=[^\s/])|~\w*/|\.\./|\b[A-Za-z]:[\\/]|\\\\"
    r"|\b[\w+]+://|\b[\w.+-]+@\w|\bhost\w*=",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    """One job of one table, as published; what is not explained here is as in `StoredRun`."""

    schema: int  # of the code that wrote the row
    official: bool = True
    status: str
    run_id: str
    identity: str
    started: str
    commit: str
    dirty: str  # `clean`, or `dirty` where the working tree differed from the commit
    environment: str  # the key of versions and machine in `environment.json`
    scores_digest: str  # of the job's lines of the table's scores file
    error: str
    low: dict[str, float] = field(default_factory=dict)  # ends of the 95 % intervals
    high: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the job gave its numbers."""
        return self.status == FINISHED


# Schema 2 did not record them: of its rows they are empty.
_SINCE_3 = ("model_factory", "backbone_factory")
_PLAIN = (
    *("schema", "dataset", "category", "model", "backbone", *_SINCE_3, "seed", "status", "run_id"),
    *("identity", "started", "commit", "dirty", "weights_digest", "data_fingerprint", "n_train"),
    *("n_test_normal", "n_test_anomalous", "environment", "scores_digest", "error"),
)
_PLAIN_2 = tuple(name for name in _PLAIN if name not in _SINCE_3)


def row_of(run: StoredRun, *, environment: str, limits: Mapping[str, tuple[float, float]]) -> Row:
    """Make the row of a run, given its environment's key and its metrics' intervals."""
    parts = (run, run.record)
    names = (*_PLAIN, *_NESTED.values())
    same = {name: getattr(of, name) for name in names for of in parts if hasattr(of, name)}
    own = {
        "schema": SCHEMA_VERSION,
        "dirty": "dirty" if run.dirty else "clean",
        "environment": environment,
        "scores_digest": scores_digest(run.record.scores),
        "error": public(" ".join((run.error or "").split()), run.record.category),
        "low": {metric: low for metric, (low, _) in limits.items()},
        "high": {metric: high for metric, (_, high) in limits.items()},
    }
    return Row(**(same | own))


def public(error: str, category: str) -> str:
    """Write an error without the places of a machine: a path begins with the category, or is cut.

    Where a path with spaces ends, is unknown: all behind it goes where it is cut.

    >>> public("OSError: /home/ann/mvtec/cap/test/003.png is truncated", "cap")
    'OSError: cap/test/003.png is truncated'
    >>> public("OSError: no space left on /home/ann", "cap")
    'OSError: no space left on …'
    """
    place = _PLACE.search(error)
    if place is None:
        return error
    before, path = error[: place.start()], error[place.start() :]
    inside = re.search(rf".*[\\/]({re.escape(category)}[\\/].*)", path)
    return before + (public(inside[1], category) if inside else "…")


def scores_digest(scores: Iterable[ImageScore]) -> str:
    """Digest per-image scores as they are written, in the order of the split."""
    lines = "".join(f"{s.image},{s.defect_type},{int(s.anomalous)},{s.score!r}\n" for s in scores)
    return hashlib.sha256(lines.encode(errors="surrogatepass")).hexdigest()


def write_rows(rows: Sequence[Row]) -> str:
    """Write rows as CSV: lines in the order given, floats as their shortest exact text."""
    nested = [
        (prefix, key)
        for prefix, name in _NESTED.items()
        for key in sorted({key for row in rows for key in getattr(row, name)})
    ]
    lines = [[*_PLAIN, *map(".".join, nested)]]
    for row in rows:
        values = [getattr(row, _NESTED[prefix]).get(key, "") for prefix, key in nested]
        lines.append([str(value) for value in (*(getattr(row, name) for name in _PLAIN), *values)])
    return to_csv(lines)


def to_csv(lines: Iterable[Iterable[str]]) -> str:
    """Write lines as CSV with a line feed at every end, on every platform, and no formula."""
    return "".join(csv_line(map(to_cell, line)).removesuffix("\r\n") + "\n" for line in lines)


def read_rows(path: Path) -> tuple[Row, ...]:
    """Read a results file."""
    with reading(path, errors="surrogatepass", newline="") as file:
        reader = csv.DictReader(file)
        columns = tuple(name for name in reader.fieldnames or () if "." not in name)
        if columns not in (_PLAIN, _PLAIN_2):
            raise ReportError(f"{path} does not have the columns of schema {SCHEMA_VERSION}")
        return tuple(_parse(line, f"{path}:{n}") for n, line in enumerate(reader, start=2))


def _parse(line: dict[str, str], where: str) -> Row:
    check_schema(line["schema"], where)
    values: dict[str, Any] = {name: {} for name in _NESTED.values()} | dict.fromkeys(_SINCE_3, "")
    for column, cell in line.items():
        prefix, _, key = column.partition(".")
        text = from_cell(cell)
        if not key:
            values[column] = int(text) if column in _INTEGERS else text
        elif text and prefix in _NESTED:
            values[_NESTED[prefix]][key] = text if prefix in _TEXTS else float(text)
    return Row(**values)


def check_schema(schema: object, where: object) -> None:
    """Refuse what was written under a schema that this code does not read."""
    readable = [str(number) for number in range(OLDEST_SCHEMA, SCHEMA_VERSION + 1)]
    if str(schema) not in readable:
        raise ReportError(f"{where} has schema {schema}, this code reads {', '.join(readable)}")


_TEXTS = ("setting", "undefined")
_SCORES = ("category", *ImageScore._fields)
_IMAGE = tuple(name for name in HEADLINE if METRICS[name].level == "image")
_LABELS = {"0": False, "1": True}

Scores = Mapping[str, Sequence[ImageScore]]
"""Per-image scores by category, in the order of the split."""


def write_scores(scores: Scores) -> str:
    """Write scores as CSV, each as the shortest text that reads back as the same float64."""
    lines = [
        (category, image, defect_type, str(int(anomalous)), repr(float(score)))
        for category, images in scores.items()
        for image, defect_type, anomalous, score in images
    ]
    return to_csv([_SCORES, *lines])


def read_scores(path: Path) -> dict[str, tuple[ImageScore, ...]]:
    """Read a scores file."""
    found: dict[str, list[ImageScore]] = {}

    def add(category: str, image: str, defect_type: str, anomalous: str, score: str) -> None:
        one = ImageScore(image, defect_type, _LABELS[anomalous], finite(score))
        found.setdefault(category, []).append(one)

    read_csv(path, _SCORES, add, of="scores")
    return {category: tuple(images) for category, images in found.items()}


def difference(of: Record, scores: Sequence[ImageScore]) -> str:
    """Name the first number of a finished job that its scores do not give, to the last bit."""
    labels = [image.anomalous for image in scores]
    found = {"n_test_normal": labels.count(False), "n_test_anomalous": labels.count(True)}
    recorded: dict[str, float | None] = {name: getattr(of, name) for name in found}
    try:
        again = image_metrics(labels, [image.score for image in scores]).values
    except ValueError as error:
        return f"its {error}"
    names = [name for name in (*_IMAGE, *again) if name in _IMAGE or name in of.metrics]
    recorded |= {name: of.metrics.get(name) for name in names}
    return first_difference(recorded, found | again, by="its scores")


def first_difference(
    recorded: Mapping[str, float | None], found: Mapping[str, float], *, by: str
) -> str:
    """Name the first number that is another where it was found; empty where none is."""
    for name, value in recorded.items():
        if value != found.get(name):
            return f"its {name} is {value!r}, and {found.get(name)!r} by {by}"
    return ""


Environments = dict[str, dict[str, dict[str, str]]]
"""Versions and machine of jobs, by a digest of both."""

_AVERAGES = ("table", "metric", "categories", "average", "low", "high")


class Average(NamedTuple):
    """A metric's mean over all categories of a table with one job for each, and its interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TableResults:
    """What `results/` holds of one table.

    Scores and averages are of tables with one job per category. Tables over seeds or settings show
    spreads over runs and keep none.
    """

    rows: tuple[Row, ...] = ()
    scores: dict[str, tuple[ImageScore, ...]] = field(default_factory=dict)
    averages: dict[str, Average] = field(default_factory=dict)
    environments: Environments = field(default_factory=dict)


def backed_scores(name: str, held: TableResults) -> Scores:
    """Return a table's scores, all of which its finished rows must stand behind."""
    finished = {row.category: row for row in held.rows if row.finished}
    stray = [category for category in held.scores if category not in finished]
    if stray:
        raise ReportError(
            f"results/scores/{name}.csv has scores of {', '.join(stray)}, of which"
            f" results/{name}.csv has no finished row"
        )
    for category, row in finished.items():
        scores = held.scores.get(category, ())
        wrong = difference(row, scores)
        if not wrong and scores_digest(scores) != row.scores_digest:
            wrong = "its digest is of other scores"
        if wrong:
            what = f"{row.dataset}/{category} of run {row.run_id}"
            raise ReportError(f"results/scores/{name}.csv: {what}: {wrong}")
    return held.scores


def files_of(tables: Mapping[str, TableResults]) -> dict[str, str]:
    """Render the whole folder: text by path relative to `results/`."""
    files: dict[str, str] = {}
    environments: Environments = {}
    averages = []
    for name, results in sorted(tables.items()):
        files[f"{name}.csv"] = write_rows(results.rows)
        if results.scores:
            files[f"scores/{name}.csv"] = write_scores(results.scores)
        environments |= results.environments
        count = str(len(results.rows))  # an average is over every category
        for metric, average in results.averages.items():
            exact = ("" if number is None else repr(number) for number in average)
            averages.append((name, metric, count, *exact))
    files["averages.csv"] = to_csv([_AVERAGES, *averages])
    content = {"schema": SCHEMA_VERSION, "environments": environments}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    return files | {"environment.json": f"{text}\n"}


def read_results(folder: Path, name: str) -> TableResults:
    """Read back one table; empty where it has not been written yet."""
    path, scores = folder / f"{name}.csv", folder / "scores" / f"{name}.csv"
    if not path.exists():
        return TableResults()
    rows, averages = read_rows(path), {}
    held = folder / "environment.json"
    with reading(held) as file:
        try:
            content = json.load(file)
        except json.JSONDecodeError as error:
            rule = "of a merge, keep the environments of both sides"
            raise ReportError(f"{held} is not JSON: {error}; {rule}") from None
        check_schema(content.get("schema"), held)
        environments: Environments = dict(content["environments"])
    unknown = sorted({row.environment for row in rows} - set(environments))
    if unknown:
        raise ReportError(f"{held} lacks {', '.join(unknown)} of {name}.csv")

    def add(table: str, metric: str, _: str, value: str, *limits: str) -> None:
        if table == name:
            averages[metric] = Average(
                float(value), *(float(end) if end else None for end in limits)
            )

    read_csv(folder / "averages.csv", _AVERAGES, add, of="averages")
    return TableResults(
        rows,
        read_scores(scores) if scores.exists() else {},
        averages,
        {row.environment: environments[row.environment] for row in rows},
    )


AVERAGE = "Average"
"""A category of published numbers."""
METHOD = "dfkde"
"""The method, and the model of the tables that its numbers stand beside."""
_FRACTION = re.compile(r"0\.[0-9]+|1\.0+")
_NUMBERS = ("source", "dataset", "category", "metric", "value")


class Source(NamedTuple):
    """Who published numbers, and how theirs were made otherwise than ours."""

    name: str  # the key in `published.csv`
    label: str
    method: str
    backbone: str  # by our name for it
    reference: str
    differences: str
    values: dict[tuple[str, str, str], str]  # by dataset, category and metric, as published

    def has(self, dataset: str, metric: str = "") -> bool:
        """Return whether there are numbers of a dataset, of one metric or of any."""
        return any(key[0] == dataset and metric in ("", key[2]) for key in self.values)


def read_published(folder: Path) -> list[Source]:
    """Read `published.csv` and `published_sources.csv`, in the order of the sources."""
    values: dict[str, dict[tuple[str, str, str], str]] = {}
    sources: dict[str, Source] = {}

    def add_number(source: str, dataset: str, category: str, metric: str, value: str) -> None:
        held = values.setdefault(source, {})
        if metric not in METRICS:
            raise ReportError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        if not _FRACTION.fullmatch(value):
            raise ReportError(f"value must be a fraction from 0.0 to 1.0, got {value!r}")
        if (dataset, category, metric) in held:
            raise ReportError(f"{source} has the {metric} of {dataset}/{category} twice")
        held[dataset, category, metric] = value

    def add_source(name: str, *rest: str) -> None:
        if name in sources:
            raise ReportError(f"source {name} stands twice")
        sources[name] = Source._make((name, *rest, values.pop(name, {})))

    header = ("source", *Source._fields[1:-1])
    read_csv(folder / "published.csv", _NUMBERS, add_number, of="published numbers")
    read_csv(folder / "published_sources.csv", header, add_source, of="sources")
    if values:
        raise ReportError(f"published_sources.csv has no line for {', '.join(values)}")
    return list(sources.values())
