"""Image-level and pixel-level metrics, exact.

Names are imported on first use: the metrics' names are known without numpy.

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


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"{__name__} has no attribute {name!r}; it has {__all__}")
    module = "image" if name.startswith("image_") else "pixel" if name.islower() else "registry"
    return getattr(import_module(f"harness.metrics.{module}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
