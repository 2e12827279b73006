"""What stands under a declared table: all that a reader needs to trace and to repeat it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.config import FeaturesConfig
from harness.metrics.registry import METRICS
from harness.report.declaration import RESAMPLES, Table, expected
from harness.report.formats import code, text
from harness.report.layout import display, shown_metrics
from harness.report.rows import Row

_FEATURES = ("engine", "precision", "device", "resize")


def caption(table: Table, rows: Sequence[Row]) -> str:
    """Write a table's caption in Markdown, from its declaration and its rows alone."""
    finished = [row for row in rows if row.finished]
    done = _runs(finished) if finished else "not run yet"
    by = " by " if finished else ": "
    sentences = [f"{described(table, finished)}; {done}{by}{code(table.command)}."]
    if finished and table.headline:
        sentences += _metrics(table, finished)
    elif finished:
        sentences.append(_seeds(table))
    reasons = {row.category: row.error for row in rows if not row.finished}
    sentences += [f"{text(category)} failed: {code(why)}." for category, why in reasons.items()]
    return " ".join(sentences)


def described(table: Table, finished: Sequence[Row] = ()) -> str:
    """Write how a table's jobs are made and, of the finished ones, with which weights."""
    models = ", ".join(text(model.upper()) for model in table.choices("model"))
    backbones = []
    for name in table.choices("backbone"):
        digests = dict.fromkeys(row.weights_digest[:12] for row in finished if row.backbone == name)
        backbones.append(code(name) + "".join(f" (weights {code(digest)})" for digest in digests))
    sizes = " or ".join(dict.fromkeys(map(_size, table.configs.values())))
    several = "seeds" if len(table.seeds) > 1 else "seed"
    return (
        f"{models} with {', '.join(backbones)}, images of {sizes}{_computing(table)},"
        f" {several} {', '.join(map(str, table.seeds))}"
    )


def _size(config: dict[str, object]) -> str:
    size, crop = config["image_size"], config["center_crop"]
    whole = f"{text(str(size))} px"
    return whole if crop is None else f"{whole}, of which the central {text(str(crop))} px"


def _computing(table: Table) -> str:
    """Label features that are not made as usual: bf16 moves AUROC in the second digit."""
    usual, parts = FeaturesConfig(), []
    for name in _FEATURES:
        values = {c["features"].get(name, getattr(usual, name)) for c in table.configs.values()}
        if len(values) == 1 and values != {getattr(usual, name)}:
            parts.append(f", {code(f'features.{name}={values.pop()}')}")
    return "".join(parts)


def _runs(finished: Sequence[Row]) -> str:
    images = {row.category: row.n_test_normal + row.n_test_anomalous for row in finished}
    commits: dict[str, dict[str, None]] = {}
    for row in finished:
        written = commit(row.commit, dirty=row.dirty == "dirty")
        commits.setdefault(written, {})[text(row.category)] = None
    listed = ", ".join(f"{written} ({', '.join(names)})" for written, names in commits.items())
    of = f"commits {listed}" if len(commits) > 1 else f"commit {next(iter(commits))}"
    return f"{sum(images.values()):,} test images; {of}; run {days(r.started for r in finished)}"


def commit(digest: str, *, dirty: bool) -> str:
    """Write a commit, and whether the working tree differed from it."""
    return f"{code(digest[:10])}{' with uncommitted changes' if dirty else ''}"


def days(started: Iterable[str]) -> str:
    """Write when runs began."""
    found = sorted({text(time[:10]) for time in started})
    return f"on {found[0]}" if len(found) == 1 else f"from {found[0]} to {found[-1]}"


def _metrics(table: Table, finished: Sequence[Row]) -> list[str]:
    sentences = []
    if any(row.low for row in finished):
        sentences.append(
            "95 % interval of the image AUROC: BCa bootstrap of the test images"
            f" ({RESAMPLES:,} resamples, normal and anomalous images apart, within each category;"
            " the model stays as it is)."
        )
    sentences.append(
        f"{display('image_f1_max')}: best threshold on the test labels (an oracle);"
        " beside it the F1 of calling every image anomalous."
    )
    if any(METRICS[metric].level == "pixel" for metric in shown_metrics(finished)):
        localizer = code(str(expected(table.config, "localizer")))
        sentences.append(f"Pixel columns: {localizer} map, no interval.")
    return sentences


def _seeds(table: Table) -> str:
    if len(table.seeds) == 1:
        return f"{display(table.metric)}."
    return (
        f"{display(table.metric)}, mean ± standard deviation over {len(table.seeds)} seeds, which"
        " draw the training images and, in a dataset without a split of its own, the test images;"
        " nothing is resampled."
    )
