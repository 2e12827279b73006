"""Image-level and pixel-level metrics, exact.

Every name is imported on first use: the metrics' names are known without numpy.

>>> from harness.metrics import METRICS, aupro
>>> METRICS["aupro"].display
'Pixel AUPRO'
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.metrics.image import (
        image_auroc,
        image_average_precision,
        image_f1_at,
        image_f1_max,
        image_metrics,
    )
    from harness.metrics.pixel import (
        aupro,
        evaluation_size,
        pixel_auroc,
        pixel_average_precision,
        pixel_f1_max,
        pixel_metrics,
        resize_mask,
    )
    from harness.metrics.registry import (
        HEADLINE,
        METRICS,
        F1Max,
        Metric,
        MetricValues,
        UndefinedMetricError,
    )

__all__ = [
    "HEADLINE",
    "METRICS",
    "F1Max",
    "Metric",
    "MetricValues",
    "UndefinedMetricError",
    "aupro",
    "evaluation_size",
    "image_auroc",
    "image_average_precision",
    "image_f1_at",
    "image_f1_max",
    "image_metrics",
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_f1_max",
    "pixel_metrics",
    "resize_mask",
]

_HOMES = {
    "HEADLINE": "harness.metrics.registry",
    "METRICS": "harness.metrics.registry",
    "F1Max": "harness.metrics.registry",
    "Metric": "harness.metrics.registry",
    "MetricValues": "harness.metrics.registry",
    "UndefinedMetricError": "harness.metrics.registry",
    "aupro": "harness.metrics.pixel",
    "evaluation_size": "harness.metrics.pixel",
    "image_auroc": "harness.metrics.image",
    "image_average_precision": "harness.metrics.image",
    "image_f1_at": "harness.metrics.image",
    "image_f1_max": "harness.metrics.image",
    "image_metrics": "harness.metrics.image",
    "pixel_auroc": "harness.metrics.pixel",
    "pixel_average_precision": "harness.metrics.pixel",
    "pixel_f1_max": "harness.metrics.pixel",
    "pixel_metrics": "harness.metrics.pixel",
    "resize_mask": "harness.metrics.pixel",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"{__name__} has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
