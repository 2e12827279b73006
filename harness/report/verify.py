"""Whether metrics are those of their scores, and of the record that the job gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.metrics.registry import HEADLINE, METRICS
from harness.record import Record

_IMAGE = [name for name in HEADLINE if METRICS[name].level == "image"]
"""What the scores of the test images determine: ratios of counts, on every machine the same."""


def difference(told: Record, kept: Record) -> str:
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
        The first value that differs, with both; empty where none does. Floats are stored with all
        their digits: they are equal, or another's.
    """
    labels = [score.anomalous for score in kept.scores]
    counts = {"n_test_normal": labels.count(False), "n_test_anomalous": labels.count(True)}
    return (
        _first({name: getattr(told, name) for name in counts}, counts, of="its scores")
        or _of_scores(told.metrics, labels, [score.score for score in kept.scores])
        or _first(told.metrics, kept.metrics, of="its record")
    )


def _of_scores(told: Mapping[str, float], labels: Sequence[bool], scores: Sequence[float]) -> str:
    from harness.metrics import image_metrics

    try:
        found = image_metrics(labels, scores).values
    except ValueError as error:
        return f"its {error}"
    names = [name for name in _IMAGE if name in told or name in found]
    return _first({name: told.get(name) for name in names}, found, of="its scores")


def _first(told: Mapping[str, float | None], found: Mapping[str, float], *, of: str) -> str:
    for name, value in told.items():
        if value != found.get(name):
            return f"its {name} is {value!r}, and {found.get(name)!r} by {of}"
    return ""
