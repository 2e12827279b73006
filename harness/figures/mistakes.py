"""The images that a job gets most wrong, each beside its anomaly map."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.images import displayed
from harness.figures.svg import GREY, document, text
from harness.record import Mistake

# As images are read; Pillow knows formats that start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_SIDE = 160
_GAP = 8
_CAPTION = 46
# Of photographs, and of the maps laid over them.
_OPACITY = {"jpeg": 1, "png": 0.6}
# Three points of a scale from dark to light, which no hue is needed to read.
_SCALE = np.array([(13, 8, 135), (204, 71, 120), (240, 249, 33)], dtype=np.float64)


def draw_mistakes(mistakes: Sequence[Mistake]) -> str:
    """Draw each image, its anomaly map laid over it, and what is wrong with its score.

    Parameters
    ----------
    mistakes : sequence of Mistake
        At least one.

    Returns
    -------
    str
        SVG that holds the images. Each map has the scale of its own least and largest value.
    """
    column = 2 * _SIDE + 2 * _GAP
    rows = -(-len(mistakes) // 3)
    shapes = [
        shape
        for number, mistake in enumerate(mistakes)
        for shape in _pair(mistake, number % 3 * column + _GAP, number // 3 * (_SIDE + _CAPTION))
    ]
    width = min(3, len(mistakes)) * column + _GAP
    return document(shapes, width=width, height=rows * (_SIDE + _CAPTION) + _GAP)


def _pair(mistake: Mistake, left: float, top: float) -> Iterator[str]:
    image = mistake.image
    yield text(f"{image.image}, score {image.score:.4g}", (left, top + 18))
    yield text(mistake.note, (left, top + 32), colour=GREY)
    top += _CAPTION - _GAP
    picture = _picture(mistake)
    yield _embed(picture, (left, top), kind="jpeg")
    if mistake.anomaly_map is not None:
        yield _embed(picture.convert("L"), (left + _SIDE, top), kind="jpeg")
        # The browser enlarges the few positions of the map smoothly.
        side = _SIDE * mistake.covers
        corner = left + _SIDE + (_SIDE - side) / 2, top + (_SIDE - side) / 2
        yield _embed(_coloured(mistake.anomaly_map), corner, kind="png", side=side)


def _picture(mistake: Mistake) -> Image.Image:
    with Image.open(mistake.path, formats=_FORMATS) as file:
        file.draft("RGB", (_SIDE, _SIDE))  # lets the JPEG decoder leave out what is too fine
        upright = displayed(file).convert("RGB")
    return upright.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2)


def _coloured(anomaly_map: NDArray) -> Image.Image:
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    share = (anomaly_map - low) / (high - low) if high > low else np.zeros_like(anomaly_map)
    channels = [np.interp(share, (0, 0.5, 1), _SCALE[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def _embed(picture: Image.Image, at: tuple[float, float], *, kind: str, side: float = _SIDE) -> str:
    data = BytesIO()
    picture.save(data, kind, quality=80)
    link = f"data:image/{kind};base64,{b64encode(data.getvalue()).decode()}"
    opacity = _OPACITY[kind]
    place = f"x='{at[0]:.0f}' y='{at[1]:.0f}' width='{side:.0f}' height='{side:.0f}'"
    return f"<image {place} opacity='{opacity}' preserveAspectRatio='none' href='{link}'/>"
