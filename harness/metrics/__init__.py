"""Image-level and pixel-level metrics, exact.

>>> from harness.metrics import METRICS, aupro
>>> METRICS["aupro"].display
'Pixel AUPRO'
"""

from harness.metrics.image import (
    image_auroc,
    image_average_precision,
    image_f1_at,
    image_f1_max,
    image_metrics,
)
from harness.metrics.pixel import (
    aupro,
    pixel_auroc,
    pixel_average_precision,
    pixel_f1_max,
    pixel_metrics,
)
from harness.metrics.registry import HEADLINE, METRICS, Metric
from harness.metrics.resolution import evaluation_size, resize_mask
from harness.metrics.result import F1Max, MetricValues, UndefinedMetricError

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
