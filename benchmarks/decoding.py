"""Decoding by format: `harness.data.read_image` against the decoder that extraction uses.

Run: `python -m benchmarks.decoding [--size 900] [--n 12]`. Both give the same bytes; the resize to
256 x 256 that follows stands in a column of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, medians, table, write_pictures
from harness.data import read_image
from harness.features.decoding import decode
from harness.features.inputs import read_input

FORMATS = (".png", ".jpg", ".bmp")


def main() -> None:
    """Print milliseconds for each image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=900)
    parser.add_argument("--n", type=int, default=12)
    options = parser.parse_args()
    print(f"{machine()}; {options.size} x {options.size} images, 1 thread\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(Path(folder) / suffix, suffix, options.n, size=options.size)
            for suffix in FORMATS
        ]
    table(["format", "read_image ms", "decode ms", "ratio", "decode and resize ms"], rows)


def measure(folder: Path, suffix: str, n: int, *, size: int) -> tuple[object, ...]:
    """Return one line of the table."""
    write_pictures(folder, n, size=size, suffix=suffix)
    paths = sorted(folder.iterdir())
    for path in paths:
        np.testing.assert_array_equal(decode(path), read_image(path))
    tasks = {
        "read": partial(over, paths, read_image),
        "decode": partial(over, paths, decode),
        "input": partial(over, paths, partial(read_input, image_size=256)),
    }
    seconds = medians(tasks, rounds=7)
    read, fast, both = (1000 * seconds[name] / n for name in tasks)
    return suffix[1:].upper(), f"{read:.1f}", f"{fast:.1f}", f"{read / fast:.2f}", f"{both:.1f}"


def over(paths: list[Path], function: Callable[[Path], object]) -> None:
    """Call a function for each path."""
    for path in paths:
        function(path)


if __name__ == "__main__":
    main()
