"""What stands under a table: all that a reader needs to trace and to repeat it."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.grid import shown_columns, tally
from harness.report.row import Row
from harness.report.table import Table


def caption(table: Table, rows: Sequence[Row]) -> str:
    """Write a table's caption in Markdown, from its rows alone."""
    finished = [row for row in rows if row.finished]
    parts = [_claim(table, finished)]
    if finished:
        images = sum(row.n_test_normal + row.n_test_anomalous for row in finished)
        parts += [f"{images:,} test images", _commits(finished), _dates(finished)]
    sentences = "; ".join(parts) + "."
    return f"{sentences} {_pixel_note(table, rows)}Filled by `{table.command}`."


def _claim(table: Table, finished: Sequence[Row]) -> str:
    digests = tally(finished, lambda row: row.weights_digest[:12])
    weights = "".join(f" (weights `{digest}`)" for digest in digests)
    size = table.expected("image_size")
    return f"{table.model} with {table.backbone}{weights}, {size} px, seed {table.seed}"


def _commits(finished: Sequence[Row]) -> str:
    commits = tally(finished, _commit)
    if len(commits) == 1:
        return f"commit {next(iter(commits))}"
    return "commits " + ", ".join(
        f"{commit} ({', '.join(names)})" for commit, names in commits.items()
    )


def _commit(row: Row) -> str:
    changed = " with uncommitted changes" if row.dirty == "dirty" else ""
    return f"`{row.commit[:10]}`{changed}"


def _dates(finished: Sequence[Row]) -> str:
    days = sorted({row.started[:10] for row in finished})
    return f"run on {days[0]}" if len(days) == 1 else f"run from {days[0]} to {days[-1]}"


def _pixel_note(table: Table, rows: Sequence[Row]) -> str:
    if not any(column.metric.startswith("pixel") for column in shown_columns(rows)):
        return ""
    return f"Pixel columns: {table.expected('localizer')} map. "
