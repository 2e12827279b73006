"""Small images written byte by byte, so that no library's version enters their digests."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

SIDE = 8


def bitmap(path: Path, number: int, *, mask: bool = False) -> None:
    """Write an 8 x 8 BMP of 24 bits: a pattern of its own for each number, or a square of white."""
    y, x = np.mgrid[:SIDE, :SIDE]
    values = (x * 31 + y * 17 + number * 7 + x * y * (number % 5)) % 256
    if mask:
        values = np.where((x < 3) & (y < 3 + number % 3), 255, 0)
    pixels = np.repeat(values.astype(np.uint8)[..., None], 3, axis=2).tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + info + pixels)


def mvtec(root: Path) -> Path:
    """Write `bottle` in the layout of MVTec AD: 8 training images, 4 normal and 3 anomalous."""
    for number in range(8):
        bitmap(root / f"bottle/train/good/{number:03}.bmp", number)
    for number in range(4):
        bitmap(root / f"bottle/test/good/{number:03}.bmp", 100 + number)
    for number in range(3):
        bitmap(root / f"bottle/test/spot/{number:03}.bmp", 200 + number)
        bitmap(root / f"bottle/ground_truth/spot/{number:03}_mask.bmp", number, mask=True)
    return root


def own(root: Path, *, normal: int = 20, abnormal: int = 4) -> Path:
    """Write the folders of the layout `folder`."""
    for number in range(normal):
        bitmap(root / f"normal/{number:03}.bmp", number)
    for number in range(abnormal):
        bitmap(root / f"abnormal/spot/{number:03}.bmp", 200 + number)
        bitmap(root / f"masks/spot/{number:03}.bmp", number, mask=True)
    return root
