"""Whether metrics are those of their scores, and of the record that the job gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.metrics.registry import HEADLINE, METRICS
from harness.record import ImageScore, Record

IMAGE = ("image_auroc", "image_f1_max", "image_average_precision")
"""The metrics that the scores of the test images determine."""


def of_scores(metrics: Mapping[str, float], scores: Sequence[ImageScore]) -> str:
    """Compute the image metrics anew and say which one differs; empty where none does.

    They are equal to the last bit, as floats are stored with all their digits.
    """
    from harness.metrics import image_metrics

    try:
        found = image_metrics([s.anomalous for s in scores], [s.score for s in scores]).values
    except ValueError as error:
        return f"its {error}"
    names = [name for name in IMAGE if name in metrics or (name in found and name in HEADLINE)]
    return _first({n: metrics.get(n) for n in names}, found, of="its scores")


def of_run(told: Record, kept: Record) -> str:
    """Compare what a store tells of a finished run with the record that the job left there.

    Parameters
    ----------
    told : Record
        What the run says now.
    kept : Record
        Its scores, and its metrics as the job logged them.

    Returns
    -------
    str
        The first value that differs, with both; empty where none does.
    """
    labels = [score.anomalous for score in kept.scores]
    counts = {"n_test_normal": labels.count(False), "n_test_anomalous": labels.count(True)}
    pixel = [name for name in told.metrics if name in METRICS and METRICS[name].level == "pixel"]
    return (
        _first({name: getattr(told, name) for name in counts}, counts, of="its scores")
        or of_scores(told.metrics, kept.scores)
        or _first({name: told.metrics[name] for name in pixel}, kept.metrics, of="its record")
    )


def _first(told: Mapping[str, float | None], found: Mapping[str, float], *, of: str) -> str:
    for name, value in told.items():
        if value != found.get(name):
            return f"its {name} is {value!r}, and {found.get(name)!r} by {of}"
    return ""
