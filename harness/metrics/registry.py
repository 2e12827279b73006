"""Every metric of the tables: its name, level and display name.

Imports nothing, so that whatever prints a table may import it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One metric, as records and tables know it.

    Attributes
    ----------
    name : str
        Its key in `Record.metrics`; also the name of its function in `harness.metrics`.
    level : {"image", "pixel"}
        Whether one score per image or one per pixel is ranked.
    display : str
        Its name in tables.
    oracle : bool
        Whether a threshold is chosen on the test labels themselves, which flatters the value.
    """

    name: str
    level: Literal["image", "pixel"]
    display: str
    oracle: bool = False


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("image_auroc", "image", "Image AUROC"),
        Metric("image_f1_max", "image", "Image F1", oracle=True),
        Metric("pixel_auroc", "pixel", "Pixel AUROC"),
        Metric("aupro", "pixel", "Pixel AUPRO"),
        Metric("image_average_precision", "image", "Image AP"),
        Metric("image_f1_at", "image", "Image F1 at training threshold"),
        Metric("pixel_average_precision", "pixel", "Pixel AP"),
        Metric("pixel_f1_max", "pixel", "Pixel F1", oracle=True),
    )
}
"""All metrics by name, in the order of the tables."""

HEADLINE: tuple[str, ...] = ("image_auroc", "image_f1_max", "pixel_auroc", "aupro")
"""The four metrics that a table shows where there is room for no more."""


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
