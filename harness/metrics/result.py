"""What the metrics return when one number is not enough, and how they say 'undefined'."""

from __future__ import annotations

from typing import NamedTuple


class UndefinedMetricError(ValueError):
    """A metric has no value for this input, such as AUROC where one class is missing."""


class MetricValues(NamedTuple):
    """Several metrics of one run.

    Attributes
    ----------
    values : dict of str to float
        By name of `METRICS`; an undefined metric is absent.
    undefined : dict of str to str
        Why each absent metric is undefined, by name.
    """

    values: dict[str, float]
    undefined: dict[str, str]


class F1Max(NamedTuple):
    """The best F1 over all thresholds, an *oracle* value.

    Attributes
    ----------
    value : float
        F1 at that threshold.
    threshold : float
        The highest score threshold that reaches it: anomalous is `score >= threshold`.
    """

    value: float
    threshold: float
