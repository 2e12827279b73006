"""One job of one table, as its row in `results/<table>.csv`, and the per-image scores behind it.

Needs the standard library only, so that `--check` is quick.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from harness.metrics.registry import HEADLINE, METRICS
from harness.record import OLDEST_SCHEMA, SCHEMA_VERSION, ImageScore, Record, StoredRun, finite
from harness.report.declaration import ReportError, reading
from harness.sweep.outcome import one_line
from harness.system.terminal import csv_line, from_cell, to_cell

CONFIDENCE = 0.95
"""Two-sided coverage of every interval."""

RESAMPLES = 10_000
"""Bootstrap resamples of every interval."""

SEED = 42
"""Of the resampling; it has nothing to do with the seed of a run."""

INTERVAL_METRIC = "image_auroc"
"""The one metric with intervals. Pixel metrics are no function of per-image scores. The best F1
over thresholds is one, but it is chosen on the images that are resampled: on simulated scores the
bootstrap's 95 % interval of it held the truth in as few as 80 % of test sets
(`benchmarks/intervals.py`)."""


FINISHED, FAILED = "finished", "failed"

_NESTED = ("setting", "metric", "low", "high", "undefined", "seconds")
_INTEGERS = ("schema", "seed", "n_train", "n_test_normal", "n_test_anomalous")
# Where a path from a root or a home begins, or an address: what follows names people and machines.
_PLACE = re.compile(
    r"(?<![\w.)\]/])/(?=[^\s/])|~\w*/|\.\./|\b[A-Za-z]:[\\/]|\\\\"
    r"|\b[\w+]+://|\b[\w.+-]+@\w|\bhost\w*=",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Row:
    """One job of one table."""

    schema: int
    dataset: str
    category: str
    model: str
    backbone: str
    model_factory: str
    backbone_factory: str
    seed: int
    status: str
    run_id: str
    identity: str
    started: str
    commit: str
    dirty: str
    weights_digest: str
    data_fingerprint: str
    n_train: int
    n_test_normal: int
    n_test_anomalous: int
    environment: str
    scores_digest: str
    error: str
    setting: dict[str, str] = field(default_factory=dict)
    metric: dict[str, float] = field(default_factory=dict)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the job gave its numbers."""
        return self.status == FINISHED

    @property
    def settings(self) -> dict[str, str]:
        """The settings, by the name that `Record` gives them."""
        return self.setting

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics, by the name that `Record` gives them."""
        return self.metric


_PLAIN = tuple(column.name for column in fields(Row) if column.name not in _NESTED)
# Schema 2 did not tell them: of its rows they are empty.
_SINCE_3 = ("model_factory", "backbone_factory")
_PLAIN_2 = tuple(name for name in _PLAIN if name not in _SINCE_3)


def row_of(run: StoredRun, *, environment: str, limits: Mapping[str, tuple[float, float]]) -> Row:
    """Make the row of a run, given its environment's key and its metrics' intervals."""
    record = run.record
    same = {name: getattr(run, name, getattr(record, name, None)) for name in _PLAIN}
    own = {
        "schema": SCHEMA_VERSION,
        "dirty": "dirty" if run.dirty else "clean",
        "environment": environment,
        "scores_digest": scores_digest(record.scores),
        "error": public(" ".join((run.error or "").split()), record.category),
    }
    return Row(
        **(same | own),  # type: ignore[arg-type]
        setting=dict(record.settings),
        metric=dict(record.metrics),
        low={metric: low for metric, (low, _) in limits.items()},
        high={metric: high for metric, (_, high) in limits.items()},
        undefined=dict(record.undefined),
        seconds=dict(record.durations),
    )


def public(error: str, category: str) -> str:
    """Write an error without the places of a machine: a path begins with the category, or is cut.

    Where a path with spaces ends, nobody can tell: all behind it goes where it is cut.

    Examples
    --------
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
    lines = "".join(f"{_score_line(score)}\n" for score in scores)
    return hashlib.sha256(lines.encode(errors="surrogatepass")).hexdigest()


def _score_line(score: ImageScore) -> str:
    return f"{score.image},{score.defect_type},{int(score.anomalous)},{score.score!r}"


def write_rows(rows: Iterable[Row]) -> str:
    """Write rows as CSV: lines in the order given, floats as their shortest exact text."""
    rows = list(rows)
    nested = [
        (name, key)
        for name in _NESTED
        for key in sorted({key for row in rows for key in getattr(row, name)})
    ]
    lines = [list(_PLAIN) + [f"{name}.{key}" for name, key in nested]]
    for row in rows:
        values = [str(getattr(row, name)) for name in _PLAIN]
        lines.append(values + [str(getattr(row, name).get(key, "")) for name, key in nested])
    return to_csv(lines)


def to_csv(lines: Iterable[Iterable[str]]) -> str:
    """Write lines as CSV with a line feed at every end, on every platform, and no formula."""
    return "".join(map(_csv_line, lines))


def _csv_line(cells: Iterable[str]) -> str:
    return csv_line(map(to_cell, cells)).removesuffix("\r\n") + "\n"


def read_rows(path: Path) -> list[Row]:
    """Read a results file."""
    with reading(path, errors="surrogatepass", newline="") as file:
        reader = csv.DictReader(file)
        columns = tuple(name for name in reader.fieldnames or () if "." not in name)
        if columns not in (_PLAIN, _PLAIN_2):
            raise ReportError(f"{path} has not the columns of schema {SCHEMA_VERSION}")
        return [_parse(line, f"{path}:{number}") for number, line in enumerate(reader, start=2)]


def check_schema(schema: object, where: object) -> None:
    """Refuse what was written under a schema that this code does not read."""
    readable = [str(number) for number in range(OLDEST_SCHEMA, SCHEMA_VERSION + 1)]
    if str(schema) not in readable:
        raise ReportError(f"{where} has schema {schema}, this code reads {', '.join(readable)}")


def _parse(line: dict[str, str], where: str) -> Row:
    check_schema(line["schema"], where)
    nested: dict[str, dict[str, str]] = {name: {} for name in _NESTED}
    line = {column: from_cell(value) for column, value in line.items()}
    for column, value in line.items():
        name, dot, key = column.partition(".")
        if dot and value != "":
            nested[name][key] = value
    told = dict.fromkeys(_SINCE_3, "") | line
    plain = {name: int(told[name]) if name in _INTEGERS else told[name] for name in _PLAIN}
    texts = {name: nested[name] for name in ("setting", "undefined")}
    numbers = {
        name: {key: float(value) for key, value in nested[name].items()}
        for name in ("metric", "low", "high", "seconds")
    }
    return Row(**plain, **texts, **numbers)  # type: ignore[arg-type]


_SCORES_HEADER = ("category", "image", "defect_type", "anomalous", "score")
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
    return to_csv([_SCORES_HEADER, *lines])


def read_scores(path: Path) -> dict[str, tuple[ImageScore, ...]]:
    """Read a scores file; an absent one is an error, as `--check` would find."""
    found: dict[str, list[ImageScore]] = {}
    with reading(path, errors="surrogatepass", newline="") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != _SCORES_HEADER:
            raise ReportError(f"{path} has not the columns {', '.join(_SCORES_HEADER)}")
        for cells in reader:
            try:
                category, image, defect_type, anomalous, score = map(from_cell, cells)
                line = ImageScore(image, defect_type, _LABELS[anomalous], finite(score))
            except (ValueError, KeyError) as error:
                where = f"{path}:{reader.line_num}"
                raise ReportError(f"{where} is no line of scores ({one_line(error)})") from None
            found.setdefault(category, []).append(line)
    return {category: tuple(images) for category, images in found.items()}


def difference(of: Record | Row, scores: Sequence[ImageScore]) -> str:
    """Compare a finished run or row with its per-image scores."""
    from harness.metrics import image_metrics

    labels = [image.anomalous for image in scores]
    found = {"n_test_normal": labels.count(False), "n_test_anomalous": labels.count(True)}
    told: dict[str, float | None] = {name: getattr(of, name) for name in found}
    try:
        again = image_metrics(labels, [image.score for image in scores]).values
    except ValueError as error:
        return f"its {error}"
    names = [name for name in (*_IMAGE, *again) if name in _IMAGE or name in of.metrics]
    told |= {name: of.metrics.get(name) for name in names}
    return first_difference(told, found | again, by="its scores")


def first_difference(
    told: Mapping[str, float | None], found: Mapping[str, float], *, by: str
) -> str:
    """Name the first number that is another where it was found; empty where none is."""
    for name, value in told.items():
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


def backed_scores(table: str, rows: Iterable[Row], scores: Scores) -> Scores:
    """Return a table's scores, all of which its finished rows must stand behind."""
    finished = {row.category: row for row in rows if row.finished}
    stray = [category for category in scores if category not in finished]
    if stray:
        raise ReportError(
            f"results/scores/{table}.csv has scores of {', '.join(stray)}, of which"
            f" results/{table}.csv has no finished row"
        )
    for category, row in finished.items():
        try:
            check_scores(row, scores.get(category, ()))
        except ReportError as error:
            raise ReportError(f"results/scores/{table}.csv: {error}") from None
    return scores
