"""What stands under a table: all that a reader needs to trace and to repeat it."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config import FeaturesConfig
from harness.metrics.registry import METRICS
from harness.report.declaration import Table
from harness.report.formats import code, text
from harness.report.grid import shown_metrics, tally
from harness.report.rows import RESAMPLES, Row


def caption(table: Table, rows: Sequence[Row]) -> str:
    """Write a table's caption in Markdown, from its declaration and its rows alone."""
    finished = [row for row in rows if row.finished]
    if not finished:
        sentences = [f"{claim(table, finished)}; not run yet: {code(table.command)}."]
    else:
        sentences = [f"{claim(table, finished)}; {_runs(finished)} by {code(table.command)}."]
    if finished and table.headline:
        sentences += [_interval(finished), _oracle(), _pixels(table, finished)]
    elif finished:
        sentences += [_seeds(table)]
    sentences += [_failed(rows)]
    return " ".join(sentence for sentence in sentences if sentence)


def claim(table: Table, finished: Sequence[Row] = ()) -> str:
    """Tell how a table's jobs are made and, of the finished ones, with which weights."""
    digests = tally(finished, lambda row: row.weights_digest[:12])
    weights = "".join(f" (weights {code(digest)})" for digest in digests)
    seeds = ", ".join(str(seed) for seed in table.seeds)
    several = "seeds" if len(table.seeds) > 1 else "seed"
    name = f"{text(table.choice('model').upper())} with {code(table.choice('backbone'))}"
    return f"{name}{weights}, images of {_size(table)}{_computing(table)}, {several} {seeds}"


def _size(table: Table) -> str:
    size, crop = table.expected("image_size"), table.expected("center_crop")
    whole = f"{text(str(size))} px"
    return whole if crop is None else f"{whole}, of which the central {text(str(crop))} px"


def _computing(table: Table) -> str:
    """Label features that are not made as usual: bf16 moves AUROC in the second digit."""
    usual, given = FeaturesConfig(), table.config["features"]
    names = ("engine", "precision", "device", "resize")
    values = {name: given.get(name, getattr(usual, name)) for name in names}
    return "".join(
        f", {code(f'features.{name}={value}')}"
        for name, value in values.items()
        if value != getattr(usual, name)
    )


def _runs(finished: Sequence[Row]) -> str:
    images = {row.category: row.n_test_normal + row.n_test_anomalous for row in finished}
    return f"{sum(images.values()):,} test images; {_commits(finished)}; {_dates(finished)}"


def _commits(finished: Sequence[Row]) -> str:
    commits = tally(finished, _commit)
    if len(commits) == 1:
        return f"commit {next(iter(commits))}"
    listed = (f"{commit} ({', '.join(map(text, names))})" for commit, names in commits.items())
    return "commits " + ", ".join(listed)


def _commit(row: Row) -> str:
    changed = " with uncommitted changes" if row.dirty == "dirty" else ""
    return f"{code(row.commit[:10])}{changed}"


def _dates(finished: Sequence[Row]) -> str:
    days = sorted({text(row.started[:10]) for row in finished})
    return f"run on {days[0]}" if len(days) == 1 else f"run from {days[0]} to {days[-1]}"


def _interval(finished: Sequence[Row]) -> str:
    if not any(row.low for row in finished):
        return ""
    return (
        "95 % interval of the image AUROC: BCa bootstrap of the test images"
        f" ({RESAMPLES:,} resamples, normal and anomalous images apart, within each category;"
        " the model stays as it is)."
    )


def _oracle() -> str:
    return (
        f"{METRICS['image_f1_max'].display}: best threshold on the test labels (an oracle);"
        " beside it the F1 of calling every image anomalous."
    )


def _pixels(table: Table, finished: Sequence[Row]) -> str:
    if not any(METRICS[metric].level == "pixel" for metric in shown_metrics(finished)):
        return ""
    return f"Pixel columns: {code(str(table.expected('localizer')))} map, no interval."


def _seeds(table: Table) -> str:
    if len(table.seeds) == 1:
        return "Image AUROC."
    return (
        f"Image AUROC, mean ± standard deviation over {len(table.seeds)} seeds, which draw the"
        " training images and, in a dataset without a split of its own, the test images; nothing is"
        " resampled."
    )


def _failed(rows: Sequence[Row]) -> str:
    reasons = {row.category: row.error for row in rows if not row.finished}
    return " ".join(
        f"{text(category)} failed: {code(reason)}." for category, reason in reasons.items()
    )
