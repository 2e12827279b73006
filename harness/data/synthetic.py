"""Synthetic datasets in the published layouts: seeded textures with known defects and masks.

Each category has a grating of its own as texture, and its images differ in phase and noise. A
defect inverts the texture inside an ellipse: a round `spot` or a long `scratch`; the mask is that
ellipse. File names, formats, channels and mask values follow the published datasets. Each file says
that it is synthetic, so that the data are never taken for the published dataset.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from harness.data.images import MOST_PIXELS
from harness.data.inspection import SYNTHETIC
from harness.data.listing import DataError
from harness.data.official import PUBLISHED, PublishedCategory
from harness.data.readers import HEADER, SPLIT_CSV
from harness.data.split import NORMAL, random_stream

_SINGLE_CHANNEL = frozenset({"grid", "screw", "zipper"})
_FEWEST_TRAIN = 24
_FEWEST_TEST = 4
_FORMATS = {".png": "PNG", ".JPG": "JPEG", ".bmp": "BMP"}
# A defect covers a pixel at least; no image has more pixels than can be read.
_SIDES = (16, math.isqrt(MOST_PIXELS))
_ELONGATION = {"spot": 1.0, "scratch": 6.0}


class _Picture(NamedTuple):
    """One image to make, and where; names are relative to the root."""

    name: str
    split: str
    defect_type: str = NORMAL
    mask: str | None = None


@dataclass(frozen=True)
class Plan:
    """How large a synthetic dataset is.

    Attributes
    ----------
    scale : float
        The share of the published numbers of images; a few of each kind remain at least.
    side : int
        Width and height of the images, in pixels.
    seed : int
        Determines every byte.
    """

    scale: float = 0.02
    side: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.scale < math.inf:
            raise DataError(f"scale must be finite and at least 0, got {self.scale}")
        if not _SIDES[0] <= self.side <= _SIDES[1]:
            raise DataError(f"side must be from {_SIDES[0]} to {_SIDES[1]:,}, got {self.side}")
        if self.seed < 0:
            raise DataError(f"seed must be at least 0, got {self.seed}")


def write_synthetic(
    root: Path, dataset: str, *, categories: list[str] | None = None, plan: Plan | None = None
) -> Path:
    """Write `mvtec`, `btad` or `visa` in its published layout; return `root`.

    By default all categories are written, and a small plan is followed. What is there already
    raises `DataError`, and so does a name that is not known.
    """
    plan = Plan() if plan is None else plan
    if dataset not in _LAYOUTS:
        raise DataError(f"dataset must be one of {', '.join(_LAYOUTS)}, got '{dataset}'")
    known = as_published(dataset, plan)
    categories = list(known) if categories is None else categories
    if unknown := [category for category in categories if category not in known]:
        raise DataError(f"categories must be of {', '.join(known)}, got '{unknown[0]}'")
    made = [*categories, *([SPLIT_CSV] if dataset == "visa" else [])]
    if there := [name for name in made if os.path.lexists(root / name)]:
        raise DataError(f"'{root / there[0]}' is already there; remove it to make it again")
    pictures = {
        category: list(_LAYOUTS[dataset](category, known[category])) for category in categories
    }
    for category in categories:
        _write_category(root, category, pictures=pictures[category], plan=plan)
    if dataset == "visa":
        _write_split_csv(root, pictures)
    return root


def as_published(dataset: str, plan: Plan) -> dict[str, PublishedCategory]:
    """Return what `PUBLISHED[dataset]` would say of a synthetic dataset."""
    return {
        category: PublishedCategory(
            train=max(_FEWEST_TRAIN, round(plan.scale * published.train)),
            test_normal=max(_FEWEST_TEST, round(plan.scale * published.test_normal)),
            test_anomalous=max(_FEWEST_TEST, round(plan.scale * published.test_anomalous)),
            suffix=published.suffix,
            size=(plan.side, plan.side),
            synthetic=True,
        )
        for category, published in PUBLISHED[dataset].items()
    }


def _mvtec(category: str, counts: PublishedCategory) -> Iterator[_Picture]:
    for number in range(counts.train):
        yield _Picture(f"{category}/train/good/{number:03}.png", "train")
    for number in range(counts.test_normal):
        yield _Picture(f"{category}/test/good/{number:03}.png", "test")
    for number in range(counts.test_anomalous):
        kind, below = ("spot", "scratch")[number % 2], f"{number // 2:03}"
        mask = f"{category}/ground_truth/{kind}/{below}_mask.png"
        yield _Picture(f"{category}/test/{kind}/{below}.png", "test", kind, mask)


def _btad(category: str, counts: PublishedCategory) -> Iterator[_Picture]:
    image = counts.suffix
    mask = ".bmp" if category == "03" else ".png"
    for number in range(counts.train):
        yield _Picture(f"{category}/train/ok/{number:04}{image}", "train")
    for number in range(counts.test_normal):
        yield _Picture(f"{category}/test/ok/{number:04}{image}", "test")
    for number in range(counts.test_anomalous):
        name = f"{category}/test/ko/{number:04}{image}"
        yield _Picture(name, "test", "spot", f"{category}/ground_truth/ko/{number:04}{mask}")


def _visa(category: str, counts: PublishedCategory) -> Iterator[_Picture]:
    stream = random_stream(0, f"synthetic split/{category}")
    order = stream.permutation(counts.train + counts.test_normal)
    tested = set(order[: counts.test_normal].tolist())
    for number in range(len(order)):
        name = f"{category}/Data/Images/Normal/{number:04}.JPG"
        yield _Picture(name, "test" if number in tested else "train")
    for number in range(counts.test_anomalous):
        mask = f"{category}/Data/Masks/Anomaly/{number:03}.png"
        name = f"{category}/Data/Images/Anomaly/{number:03}.JPG"
        yield _Picture(name, "test", "spot", mask)


_LAYOUTS = {"mvtec": _mvtec, "btad": _btad, "visa": _visa}


def _write_category(root: Path, category: str, *, pictures: list[_Picture], plan: Plan) -> None:
    for folder in {(root / name).parent for p in pictures for name in (p.name, p.mask) if name}:
        folder.mkdir(parents=True, exist_ok=True)
    stream = random_stream(plan.seed, f"synthetic/{category}")
    angle, period = stream.uniform(0, np.pi), stream.uniform(6, 16)
    colour = stream.uniform(0.4, 1.0, size=3)
    for picture in pictures:
        pixels = _texture(stream, plan.side, angle=angle, period=period)
        if picture.mask is not None:
            defect = _ellipse(stream, plan.side, elongation=_ELONGATION[picture.defect_type])
            pixels[defect] = 255 - pixels[defect]
            # VisA numbers its defects from 1; the others write white.
            white = 1 if "/Masks/" in picture.mask else 255
            _save(root / picture.mask, defect.astype(np.uint8) * np.uint8(white))
        grey = category in _SINGLE_CHANNEL
        _save(root / picture.name, pixels if grey else (pixels[..., None] * colour).astype("u1"))


def _texture(
    stream: np.random.Generator, side: int, *, angle: float, period: float
) -> NDArray[np.uint8]:
    """Draw a grating of the category's angle and period, in pixels, with noise: (side, side)."""
    y, x = np.mgrid[:side, :side]
    phase = stream.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + phase)
    values = 75 + 35 * wave + stream.normal(scale=6, size=wave.shape)
    return values.clip(0, 255).astype(np.uint8)


def _ellipse(stream: np.random.Generator, side: int, *, elongation: float) -> NDArray[np.bool_]:
    """Draw a defect's shape: (side, side), True inside."""
    radius = stream.uniform(0.10, 0.16) * side
    angle = stream.uniform(0, np.pi)
    centre = stream.uniform(0.3, 0.7, size=2) * side
    y, x = np.mgrid[:side, :side] + 0.5 - centre[:, None, None]
    along = (x * np.cos(angle) + y * np.sin(angle)) / (radius * np.sqrt(elongation))
    across = (y * np.cos(angle) - x * np.sin(angle)) * np.sqrt(elongation) / radius
    return np.less_equal(along**2 + across**2, 1)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    text = PngInfo()
    text.add_text("Comment", SYNTHETIC.decode())
    options = {"pnginfo": text, "comment": SYNTHETIC}  # each for one format
    with path.open("xb") as file:
        image = Image.fromarray(pixels)
        image.save(file, _FORMATS[path.suffix], compress_level=1, quality=92, **options)
        if path.suffix == ".bmp":
            file.write(SYNTHETIC)  # behind the pixels, for the format has no place for text


def _write_split_csv(root: Path, pictures: dict[str, list[_Picture]]) -> None:
    path = root / SPLIT_CSV
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        for category, rows in pictures.items():
            for row in rows:
                label = "normal" if row.mask is None else "anomaly"
                writer.writerow([category, row.split, label, row.name, row.mask or ""])
