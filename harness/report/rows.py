"""The rows of `results/<table>.csv`, one for each job, and the per-image scores behind them."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.metrics.registry import HEADLINE, METRICS
from harness.record import OLDEST_SCHEMA, SCHEMA_VERSION, ImageScore, Record, StoredRun, finite
from harness.report.declaration import ReportError, read_csv, reading
from harness.system.terminal import csv_line, from_cell, to_cell

FINISHED = "finished"

# Fields of several columns each, and how the names of those begin.
_NESTED = {
    "settings": "setting",
    "metrics": "metric",
    "low": "low",
    "high": "high",
    "undefined": "undefined",
    "durations": "seconds",
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
    same = {n: getattr(of, n) for n in (*_PLAIN, *_NESTED) for of in parts if hasattr(of, n)}
    own = {
        "schema": SCHEMA_VERSION,
        "dirty": "dirty" if run.dirty else "clean",
        "environment": environment,
        "scores_digest": scores_digest(run.record.scores),
        "error": public_error(run),
        "low": {metric: low for metric, (low, _) in limits.items()},
        "high": {metric: high for metric, (_, high) in limits.items()},
    }
    return Row(**(same | own))


def public_error(run: StoredRun) -> str:
    """Write why a run failed in one line, without the places of its machine."""
    return public(" ".join((run.error or "").split()), run.record.category)


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
        (name, key)
        for name in _NESTED
        for key in sorted({key for row in rows for key in getattr(row, name)})
    ]
    lines = [list(_PLAIN) + [f"{_NESTED[name]}.{key}" for name, key in nested]]
    for row in rows:
        values = [str(getattr(row, name)) for name in _PLAIN]
        lines.append(values + [str(getattr(row, name).get(key, "")) for name, key in nested])
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
            raise ReportError(f"{path} has not the columns of schema {SCHEMA_VERSION}")
        return tuple(_parse(line, f"{path}:{n}") for n, line in enumerate(reader, start=2))


def check_schema(schema: object, where: object) -> None:
    """Refuse what was written under a schema that this code does not read."""
    readable = [str(number) for number in range(OLDEST_SCHEMA, SCHEMA_VERSION + 1)]
    if str(schema) not in readable:
        raise ReportError(f"{where} has schema {schema}, this code reads {', '.join(readable)}")


def _parse(line: dict[str, str], where: str) -> Row:
    check_schema(line["schema"], where)
    line = dict.fromkeys(_SINCE_3, "") | {name: from_cell(cell) for name, cell in line.items()}
    plain = {name: int(line[name]) if name in _INTEGERS else line[name] for name in _PLAIN}
    nested = {
        name: {
            column.removeprefix(f"{prefix}."): cell if prefix in _TEXTS else float(cell)
            for column, cell in line.items()
            if column.startswith(f"{prefix}.") and cell != ""
        }
        for name, prefix in _NESTED.items()
    }
    return Row(**plain, **nested)  # type: ignore[arg-type]


_TEXTS = ("setting", "undefined")
_SCORES = ("category", "image", "defect_type", "anomalous", "score")
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
    for category, score in read_csv(path, _SCORES, _score, of="scores"):
        found.setdefault(category, []).append(score)
    return {category: tuple(images) for category, images in found.items()}


def _score(
    category: str, image: str, defect_type: str, anomalous: str, score: str
) -> tuple[str, ImageScore]:
    return category, ImageScore(image, defect_type, _LABELS[anomalous], finite(score))


def difference(of: Record, scores: Sequence[ImageScore]) -> str:
    """Name the first number of a finished job that its scores do not give, to the last bit."""
    from harness.metrics import image_metrics

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


def check_scores(row: Row, scores: Sequence[ImageScore]) -> None:
    """Refuse per-image scores that are not all those behind a finished row."""
    wrong = difference(row, scores)
    if not wrong and scores_digest(scores) != row.scores_digest:
        wrong = "its digest is of other scores"
    if wrong:
        raise ReportError(f"{row.dataset}/{row.category} of run {row.run_id}: {wrong}")
