"""A pivot as text: its grid, its CSV, its caption."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from statistics import stdev

import yaml

from harness.config import conf_dir
from harness.metrics.registry import METRICS
from harness.record import StoredRun
from harness.report.averages import mean
from harness.report.facets import CORE, DATA, MACHINE, facets_of, in_words, natural
from harness.report.grid import ABSENT, FAILED, MILLISECONDS, TIMED, UNDEFINED, Grid, spread
from harness.report.latex import latex
from harness.report.markdown import code, markdown, text
from harness.report.page import page_of
from harness.report.pivot import METRIC, MODEL_MS, Line, Measured, Pivot
from harness.report.row import public, to_csv

NOT_OFFICIAL = " (not official)"
_CATEGORY = ("category",)
_UNTOLD = (*DATA, MACHINE, "weights_digest", "identity", "model_factory", "backbone_factory")

BySeed = Mapping[int, Measured]


def render(pivot: Pivot, arguments: Sequence[str]) -> str:
    """Write a table in the format that was asked for; a CSV has no caption."""
    if pivot.request.format == "csv":
        return csv_of_pivot(pivot)
    grid, caption = grid_of_pivot(pivot), caption_of_pivot(pivot, arguments)
    if pivot.request.format == "latex":
        return latex("runs", grid, caption)
    return page_of(grid, caption) if pivot.request.format == "html" else markdown(grid, caption)


def grid_of_pivot(pivot: Pivot) -> Grid:
    """Lay the cells out as text: means over seeds, with their deviation, and averages."""
    rows, columns = lines_of(pivot)
    seeds = seeds_of(pivot)
    body = [
        (
            " · ".join(_label(pivot, pivot.request.rows, row)) + rows[row],
            *(_text(pivot.cells.get((row, column), {}), seeds) for column in columns),
        )
        for row in rows
    ]
    header = [" · ".join(map(_title, pivot.request.rows))]
    header += [
        " · ".join(_label(pivot, pivot.request.columns, column, keyed=True)) + columns[column]
        for column in columns
    ]
    average: tuple[str, ...] = ()
    if pivot.request.rows == _CATEGORY:
        lines = [[pivot.cells.get((row, column), {}) for row in rows] for column in columns]
        mark = NOT_OFFICIAL if any(rows.values()) else ""
        average = (f"Average{mark}", *(_average(pivot, line) for line in lines))
    elif pivot.request.columns == _CATEGORY:
        lines = [[pivot.cells.get((row, column), {}) for column in columns] for row in rows]
        mark = NOT_OFFICIAL if any((*rows.values(), *columns.values())) else ""
        header.append(f"Average{mark}")
        body = [(*cells, _average(pivot, line)) for cells, line in zip(body, lines, strict=True)]
    return Grid(tuple(header), tuple(body), average)


def csv_of_pivot(pivot: Pivot) -> str:
    """Write the cells as CSV at full precision, with a column for each of the rows' keys.

    Over several seeds, the cells hold means, and columns beside them the standard deviations.
    """
    rows, columns = lines_of(pivot)
    seeds = seeds_of(pivot)
    names = [
        " · ".join(_label(pivot, pivot.request.columns, column, keyed=True)) + columns[column]
        for column in columns
    ]
    if len(seeds) > 1:
        names = [title for name in names for title in (name, f"{name}: standard deviation")]
    lines = [[*pivot.request.rows, "official", *names]]
    for row in rows:
        flags = {(row, column) in pivot.unofficial for column in columns}
        line = [*row, "mixed" if len(flags) > 1 else str(flags != {True}).lower()]
        for column in columns:
            line += _numbers(pivot.cells.get((row, column), {}), seeds)
        lines.append(line)
    return to_csv(lines)


def lines_of(pivot: Pivot) -> tuple[dict[Line, str], dict[Line, str]]:
    """List rows and columns in order, each with its mark where all its data are not official."""
    keys = (pivot.request.rows, pivot.request.columns)
    marks = [_marks(pivot, axis, side) for side, axis in enumerate(keys)]
    if all(marks[0].values()):  # once is enough
        marks[1] = dict.fromkeys(marks[1], "")
    rows, columns = (
        {line: those[line] for line in sorted(those, key=lambda x: _rank(pivot, axis, x))}
        for those, axis in zip(marks, keys, strict=True)
    )
    return rows, columns


def _marks(pivot: Pivot, keys: Line, side: int) -> dict[Line, str]:
    flags: dict[Line, set[bool]] = {}
    for place, by_seed in pivot.cells.items():
        told = flags.setdefault(place[side], set())
        if set(by_seed.values()) != {FAILED}:
            told.add(place in pivot.unofficial)
    return {line: NOT_OFFICIAL if those == {True} else "" for line, those in flags.items()}


def _rank(pivot: Pivot, keys: Line, line: Line) -> tuple[tuple[int, int, float, str, str], ...]:
    """Sort as asked for, then categories as declared, then numbers, then words."""
    return tuple(_rank_of(pivot, key, value) for key, value in zip(keys, line, strict=True))


def _rank_of(pivot: Pivot, key: str, value: str) -> tuple[int, int, float, str, str]:
    order: Sequence[str] = ()
    if key == METRIC:
        order = pivot.request.metrics
    elif key == "category":
        order = declared(pivot)
    choice = pivot.request.choices.get(key)
    asked = (choice.rank(value) if choice else None) or 0
    place = order.index(value) if value in order else len(order)
    return asked, place, *natural(value), value


def declared(pivot: Pivot) -> list[str]:
    """List the categories of the published datasets that are shown."""
    names = {run.record.dataset for run in (*pivot.runs, *pivot.failed)}
    found: list[str] = []
    for path in sorted((conf_dir() / "dataset").glob("*.yaml")):
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        if told["name"] in names and told.get("official", True):
            found += told["categories"]
    return found


def seeds_of(pivot: Pivot) -> list[int]:
    """List the seeds that each cell should have; one where seeds are rows or columns."""
    if "seed" in pivot.request.axes:
        return [0]
    return sorted({run.record.seed for run in (*pivot.runs, *pivot.failed)})


def _values(by_seed: BySeed) -> list[float]:
    return [value for _, value in sorted(by_seed.items()) if isinstance(value, float)]


def _text(by_seed: BySeed, seeds: Sequence[int]) -> str:
    if values := _values(by_seed):
        return spread(values, len(seeds))
    return next((why for why in (FAILED, UNDEFINED) if why in by_seed.values()), ABSENT)


def _numbers(by_seed: BySeed, seeds: Sequence[int]) -> list[str]:
    values = _values(by_seed)
    if len(values) < len(seeds):
        return [FAILED if FAILED in by_seed.values() else "", *[""] * (len(seeds) > 1)]
    return [repr(mean(values)), *([repr(stdev(values))] if len(values) > 1 else [])]


def _average(pivot: Pivot, line: Sequence[BySeed]) -> str:
    """Average over categories for each seed, then spread over seeds; never with a gap."""
    seeds = seeds_of(pivot)
    known = [values for by_seed in line if len(values := _values(by_seed)) == len(seeds)]
    expected = len({*declared(pivot), *_categories(pivot)})
    if len(known) < expected:
        return f"{ABSENT} ({len(known)}/{expected})"
    return spread([mean(values) for values in zip(*known, strict=True)], len(seeds))


def _categories(pivot: Pivot) -> set[str]:
    return {run.record.category for run in (*pivot.runs, *pivot.failed)}


def _label(pivot: Pivot, keys: Line, line: Line, *, keyed: bool = False) -> list[str]:
    return [_words(key, value, keyed=keyed) for key, value in zip(keys, line, strict=True)]


def _words(key: str, value: str, *, keyed: bool) -> str:
    if key == METRIC:
        return _display(value)
    plain = not keyed or key in CORE[:4] or key == "defect_type"
    return in_words(key, value) if plain else f"{key} = {in_words(key, value)}"


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize() if key in (*CORE, METRIC, "defect_type") else key


def _display(metric: str) -> str:
    return MILLISECONDS if metric == MODEL_MS else METRICS[metric].display


def caption_of_pivot(pivot: Pivot, arguments: Sequence[str]) -> str:
    """Write in Markdown what all runs have in common, and how to print the table again."""
    command = code(shlex.join(["python", "-m", "harness.report", "show", *arguments]))
    sentences = [
        f"{_what(pivot)}; {_fixed(pivot)}; {_runs(pivot.runs)} by {command}.",
        *_protocol(pivot),
        *_failures(pivot.failed),
        *_not_official(pivot.runs),
    ]
    return " ".join(sentences)


def _what(pivot: Pivot) -> str:
    seeds = seeds_of(pivot)
    names = ", ".join(map(_display, pivot.request.metrics))
    types = ", normal test images against one defect type" if pivot.request.by_type else ""
    if len(seeds) == 1:
        return f"{names}{types}"
    listed = ", ".join(map(str, seeds))
    return f"{names}{types}, mean ± standard deviation over {len(seeds)} seeds ({listed})"


def _fixed(pivot: Pivot) -> str:
    runs = [run.record for run in pivot.runs]
    told = {key: value for key, value in pivot.common.items() if value != "None"}
    named = [code(f"{key}={value}") for key, value in told.items() if key not in _UNTOLD]
    factories = sorted({name for r in runs for name in (r.model_factory, r.backbone_factory)})
    own = [name for name in factories if not name.startswith(("dfkde.", "dfkde:"))]
    sets = sorted({(r.backbone, r.weights_digest[:12]) for r in runs})
    weights = [f"weights {code(w)}{_of(b, alone=len(sets) == 1)}" for b, w in sets]
    if "data_fingerprint" in told:
        weights.append(f"data {code(told['data_fingerprint'][:12])}")
    seeds = {r.seed for r in runs}
    if len(seeds) == 1 and "seed" not in pivot.request.axes:
        named.append(code(f"seed={seeds.pop()}"))
    return ", ".join([*named, *weights, *(f"built by {code(name)}" for name in own)])


def _of(backbone: str, *, alone: bool) -> str:
    return "" if alone else f" of {text(backbone)}"


def _runs(runs: Sequence[StoredRun]) -> str:
    changed = {True: " with uncommitted changes", False: ""}
    commits = dict.fromkeys(f"{code(run.commit[:10])}{changed[run.dirty]}" for run in runs)
    days = sorted({text(run.started[:10]) for run in runs})
    when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
    several = "commits" if len(commits) > 1 else "commit"
    return f"{several} {', '.join(commits)}; {len(runs)} runs {when}"


def _protocol(pivot: Pivot) -> list[str]:
    metrics, sentences = pivot.request.metrics, []
    oracles = [
        METRICS[name].display for name in metrics if name in METRICS and METRICS[name].oracle
    ]
    if oracles:
        sentences.append(f"{', '.join(oracles)}: best threshold on the test labels (an oracle).")
    if MODEL_MS in metrics:
        machines = dict.fromkeys(code(facets_of(run)[MACHINE]) for run in pivot.runs)
        sentences.append(f"{MILLISECONDS}: {TIMED}, on {', '.join(machines)}.")
    return sentences


def _failures(failed: Iterable[StoredRun]) -> list[str]:
    reasons = {
        _job(run): public(" ".join((run.error or "").split()), run.record.category)
        for run in failed
    }
    return [f"{text(job)} failed: {code(reason)}." for job, reason in reasons.items()]


def _job(run: StoredRun) -> str:
    record = run.record
    return f"{record.dataset}/{record.category}, {record.model}, seed {record.seed}"


def _not_official(runs: Iterable[StoredRun]) -> list[str]:
    records = [run.record for run in runs if not run.record.official]
    names = dict.fromkeys(f"{one.dataset}/{one.category}" for one in records)
    if not names:
        return []
    return [f"Not official: {', '.join(map(text, names))} (not the published data)."]
