"""Decoding by format: `harness.data.read_image` against the decoder that extraction uses.

Run: `python -m benchmarks.decoding [--size 900] [--n 12]`. Both give the same bytes; the resize to
256 x 256 that follows has a column of its own, and so does the same with the check of the file's
SHA-256 that every job makes.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine, medians, table, write_pictures
from harness.data import read_image
from harness.data.images import read_file
from harness.features.inputs import decode, read_input

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
    columns = ["read_image ms", "decode ms", "ratio", "decode and resize ms", "checked ms"]
    table(["format", *columns], rows)


def measure(folder: Path, suffix: str, n: int, *, size: int) -> tuple[object, ...]:
    """Return one line of the table."""
    write_pictures(folder, n, size=size, suffix=suffix)
    paths = sorted(folder.iterdir())
    for path in paths:
        np.testing.assert_array_equal(decode_file(path), read_image(path))
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    tasks = {
        "read": partial(over, paths, read_image),
        "decode": partial(over, paths, decode_file),
        "input": partial(over, paths, partial(read_input, image_size=256)),
        "checked": partial(
            over, paths, lambda path: read_input(path, digests[path], image_size=256)
        ),
    }
    seconds = medians(tasks, rounds=7)
    read, fast, *both = (1000 * seconds[name] / n for name in tasks)
    line = (f"{read:.1f}", f"{fast:.1f}", f"{read / fast:.2f}", *(f"{one:.1f}" for one in both))
    return suffix[1:].upper(), *line


def decode_file(path: Path) -> NDArray[np.uint8]:
    """Read and decode an image file as extraction does."""
    return decode(read_file(path), path)


def over(paths: list[Path], function: Callable[[Path], object]) -> None:
    """Call a function for each path."""
    for path in paths:
        function(path)


if __name__ == "__main__":
    main()
