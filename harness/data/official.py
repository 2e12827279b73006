"""The published datasets in numbers: what a category must equal to count as official.

Sources: the datasets' own papers and readmes (Bergmann et al., CVPR 2019; Mishra et al., ISIE 2021;
Zou et al., ECCV 2022; Buerhop-Lutz et al., EU PVSEC 2018).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from harness.data.inspection import Inspection
from harness.data.listing import Listing, Problem


class Published(NamedTuple):
    """One category as published.

    Attributes
    ----------
    train, test_normal, test_anomalous : int
        Numbers of images; each anomalous one has a mask (except in ELPV, which has none).
    suffix : str
        The ending of its image files.
    size : tuple of int, optional
        (width, height) of every image; None where they vary.
    smallest_side : int
        No image is smaller than this, in pixels; tells resized copies where sizes vary.
    """

    train: int
    test_normal: int
    test_anomalous: int
    suffix: str
    size: tuple[int, int] | None = None
    smallest_side: int = 0


def _square(train: int, normal: int, anomalous: int, side: int) -> Published:
    return Published(train, normal, anomalous, ".png", (side, side))


def _visa(train: int, normal: int, anomalous: int) -> Published:
    return Published(train, normal, anomalous, ".JPG", smallest_side=600)


PUBLISHED: dict[str, dict[str, Published]] = {
    "mvtec": {
        "bottle": _square(209, 20, 63, 900),
        "cable": _square(224, 58, 92, 1024),
        "capsule": _square(219, 23, 109, 1000),
        "carpet": _square(280, 28, 89, 1024),
        "grid": _square(264, 21, 57, 1024),
        "hazelnut": _square(391, 40, 70, 1024),
        "leather": _square(245, 32, 92, 1024),
        "metal_nut": _square(220, 22, 93, 700),
        "pill": _square(267, 26, 141, 800),
        "screw": _square(320, 41, 119, 1024),
        "tile": _square(230, 33, 84, 840),
        "toothbrush": _square(60, 12, 30, 1024),
        "transistor": _square(213, 60, 40, 1024),
        "wood": _square(247, 19, 60, 1024),
        "zipper": _square(240, 32, 119, 1024),
    },
    "btad": {
        "01": Published(400, 21, 49, ".bmp", (1600, 1600)),
        "02": Published(399, 30, 200, ".png", (600, 600)),
        "03": Published(1000, 400, 41, ".bmp", (800, 600)),
    },
    "visa": {
        "candle": _visa(900, 100, 100),
        "capsules": _visa(542, 60, 100),
        "cashew": _visa(450, 50, 100),
        "chewinggum": _visa(453, 50, 100),
        "fryum": _visa(450, 50, 100),
        "macaroni1": _visa(900, 100, 100),
        "macaroni2": _visa(900, 100, 100),
        "pcb1": _visa(904, 100, 100),
        "pcb2": _visa(901, 100, 100),
        "pcb3": _visa(905, 101, 100),
        "pcb4": _visa(904, 101, 100),
        "pipe_fryum": _visa(450, 50, 100),
    },
    "elpv": {
        "mono": Published(352, 236, 313, ".png", (300, 300)),
        "poly": Published(552, 368, 402, ".png", (300, 300)),
    },
}
"""By dataset and category."""


def differences(
    published: Published, listing: Listing, *, seen: Mapping[str, Inspection], category: str
) -> Iterable[Problem]:
    """Say in what a category differs from the published one; these problems are not fatal."""
    anomalous = sum(image.anomalous for image in listing.test)
    counts = {
        "training images": (len(listing.train), published.train),
        "normal test images": (len(listing.test) - anomalous, published.test_normal),
        "anomalous test images": (anomalous, published.test_anomalous),
    }
    for what, (count, expected) in counts.items():
        if count != expected:
            rule = f"has {count} {what}, the published dataset {expected}"
            yield Problem(category, rule, fatal=False)
    for image in (*listing.train, *listing.test):
        if image.name in seen:
            yield from _image_differences(published, image.name, seen=seen[image.name])


def _image_differences(published: Published, name: str, *, seen: Inspection) -> Iterable[Problem]:
    size = (seen.width, seen.height)
    if not name.endswith(published.suffix):
        yield Problem(name, f"is published as {published.suffix}", fatal=False)
    if published.size is not None and size != published.size:
        expected = "x".join(map(str, published.size))
        yield Problem(name, f"is {size[0]}x{size[1]}, published as {expected}", fatal=False)
    if min(size) < published.smallest_side:
        rule = f"is {size[0]}x{size[1]}, published with no side below {published.smallest_side}"
        yield Problem(name, rule, fatal=False)
