"""The few shapes that the figures are made of, as SVG text; lengths in pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.show import in_markup

BLACK, GREY, LIGHT = "#222", "#777", "#ddd"
# Of the palette by Okabe and Ito, which people with any colour vision tell apart.
BLUE, ORANGE = "#0072b2", "#d55e00"
_FONT = "font-family='Helvetica,Arial,sans-serif'"


def document(shapes: Iterable[str], *, width: float, height: float) -> str:
    """Return a picture of the shapes on white."""
    size = f"width='{width:.0f}' height='{height:.0f}' viewBox='0 0 {width:.0f} {height:.0f}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} {_FONT} font-size='11'>"
    return "\n".join([head, "<rect width='100%' height='100%' fill='white'/>", *shapes, "</svg>\n"])


def text(words: str, at: tuple[float, float], *, anchor: str = "start", colour: str = BLACK) -> str:
    """Return words; `anchor` says which end of them, or `middle`, is at the point."""
    x, y = at
    place = f"x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'"
    return f"<text {place} fill='{colour}'>{in_markup(words)}</text>"


def upright(words: str, at: tuple[float, float]) -> str:
    """Return words that run upwards, centred at the point."""
    x, y = at
    turned = f"transform='translate({x:.1f} {y:.1f}) rotate(-90)'"
    return f"<text {turned} text-anchor='middle' fill='{BLACK}'>{in_markup(words)}</text>"


def line(points: NDArray[np.float64], *, colour: str, width: float = 1.5) -> str:
    """Return a line through points of shape (n, 2)."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points.tolist())
    return f"<polyline points='{joined}' fill='none' stroke='{colour}' stroke-width='{width}'/>"


def rectangle(at: tuple[float, float], width: float, *, height: float, style: str) -> str:
    """Return a rectangle by its upper left corner; `style` holds further attributes."""
    x, y = at
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' {style}/>"


@dataclass(frozen=True)
class Axes:
    """A rectangle in which values are drawn.

    Attributes
    ----------
    left, top, width, height : float
        Its place in the picture, in pixels.
    x_range, y_range : tuple of float
        The values at its edges.
    """

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)

    def x(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return where values lie in the picture, from the left."""
        low, high = self.x_range
        return self.left + (np.asarray(values, dtype=np.float64) - low) / (high - low) * self.width

    def y(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return where values lie in the picture, from the top."""
        low, high = self.y_range
        share = (np.asarray(values, dtype=np.float64) - low) / (high - low)
        return self.top + (1 - share) * self.height

    def curve(self, x: ArrayLike, y: ArrayLike, *, colour: str) -> str:
        """Return a line through values."""
        return line(np.column_stack([self.x(x), self.y(y)]), colour=colour)

    def frame(self, title: str, *, x_label: str) -> list[str]:
        """Return the border, the title and what the horizontal axis means."""
        middle, bottom = self.left + self.width / 2, self.top + self.height
        style = f"fill='none' stroke='{GREY}'"
        return [
            rectangle((self.left, self.top), self.width, height=self.height, style=style),
            text(title, (middle, self.top - 8), anchor="middle"),
            text(x_label, (middle, bottom + 32), anchor="middle"),
        ]

    def x_ticks(self, values: Sequence[float]) -> list[str]:
        """Return numbers along the lower edge."""
        bottom = self.top + self.height
        return [
            text(f"{value:g}", (x, bottom + 15), anchor="middle", colour=GREY)
            for value, x in zip(values, self.x(values).tolist(), strict=True)
        ]

    def y_ticks(self, values: Sequence[float]) -> list[str]:
        """Return numbers along the left edge."""
        return [
            text(f"{value:g}", (self.left - 5, y + 4), anchor="end", colour=GREY)
            for value, y in zip(values, self.y(values).tolist(), strict=True)
        ]


def round_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two, about five of them.

    Examples
    --------
    >>> round_ticks(-3.2, 47)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.99)
    first = np.ceil(low / step) + 0.0  # never -0.0, which would be printed with its sign
    return [float(k * step) for k in np.arange(first, np.floor(high / step) + 1)]
