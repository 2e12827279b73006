"""How a fault is planted in a sound dataset."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image


class Fault(NamedTuple):
    """One planted fault; `fatal` ones are refused even with `dataset.official=false`."""

    name: str
    layout: str
    plant: Callable[[Path], object]
    message: str
    fatal: bool = True


def huge(path: Path) -> None:
    """Write a file of 1 TiB that takes no space; no memory holds it."""
    with path.open("wb") as file:
        file.truncate(2**40)


def unlink(*names: str) -> Callable[[Path], None]:
    return lambda root: [(root / name).unlink() for name in names] and None


def write(name: str, content: bytes | str) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / name).write_bytes(data)


def move(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / old).rename(root / new)


def duplicate(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: shutil.copyfile(root / old, root / new)


def truncate(name: str, share: float) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(share * len(data))])

    return plant


def flip_byte(name: str, position: float) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[int(position * len(data))] ^= 0xFF
        (root / name).write_bytes(bytes(data))

    return plant


def repaint(name: str, change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        with Image.open(root / name) as image:
            changed = change(image)
        changed.save(root / name)

    return plant


def swap_folders(one: str, other: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        (root / one).rename(root / "elsewhere")
        (root / other).rename(root / one)
        (root / "elsewhere").rename(root / other)

    return plant


def edit_csv(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        path = root / "split_csv/1cls.csv"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return plant


def edit_row(containing: str, pattern: str, new: str) -> Callable[[Path], None]:
    def change(lines: list[str]) -> list[str]:
        number = next(n for n, line in enumerate(lines) if n and containing in line)
        lines[number] = re.sub(pattern, new, lines[number])
        return lines

    return edit_csv(change)


def save_as(name: str, new: str) -> Callable[[Path], None]:
    """Convert an image to the format of another ending."""

    def plant(root: Path) -> None:
        with Image.open(root / name) as image:
            image.save(root / new)
        (root / name).unlink()

    return plant
