"""From a value to a position in a drawing, and the ticks between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A straight line from values to positions.

    Attributes
    ----------
    low, high : float
        The values at either end.
    start, stop : float
        Their positions.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Place a value, rounded to a tenth of a pixel."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose about `count` round values within limits.

    Examples
    --------
    >>> nice_ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(-3, 41)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Bend:
    """A scale for anomaly scores: straight around the normal images, logarithmic far from them.

    Far anomalies have scores hundreds of times those of normal images; both must be seen.

    Attributes
    ----------
    center, width : float
        Median and spread of the normal images' scores.
    """

    center: float
    width: float

    def forward(self, score: float) -> float:
        """Bend a score."""
        return math.asinh((score - self.center) / self.width)

    def backward(self, bent: float) -> float:
        """Unbend it."""
        return self.center + self.width * math.sinh(bent)


def bend_around(normal: Sequence[float]) -> Bend:
    """Choose the bend from the normal images' scores."""
    ordered = sorted(normal)
    middle = ordered[len(ordered) // 2]
    spread = ordered[(len(ordered) * 3) // 4] - ordered[len(ordered) // 4]
    return Bend(middle, 2 * spread or 1.0)


def bent_ticks(bend: Bend, low: float, high: float) -> list[float]:
    """Choose round scores at about equal distances along a bent axis, four at most."""
    ticks: list[float] = []
    for share in (0.02, 0.34, 0.66, 0.98):
        rough = bend.backward(low + share * (high - low))
        digits = 1 - math.floor(math.log10(abs(rough))) if rough else 0
        rounded = round(rough, min(digits, 6))
        if low <= bend.forward(rounded) <= high and rounded not in ticks:
            ticks.append(rounded)
    return ticks
