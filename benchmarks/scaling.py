"""Scaling of extraction: from 1 to 2 workers, from 100 to 10,000 images, and its memory.

Run: `python -m benchmarks.scaling`. Workers are compared on 900 x 900 PNG files with a ResNet50;
numbers of images on small files with a small network, each in a
process of its own, whose peak memory is set against the size of the features themselves.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import (
    backbone,
    extract_again,
    machine,
    medians,
    samples_in,
    status_bytes,
    table,
    write_pictures,
)
from harness.config import BackboneConfig, FeaturesConfig
from harness.data import Sample
from harness.features import FeatureReader, LazyExtractor
from harness.threads import cores

NUMBERS = (100, 1000, 10_000)


def main() -> None:
    """Print both tables, or measure one number of images in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=64, help="images for the comparison of workers")
    parser.add_argument("--numbers", type=int, nargs="+", default=NUMBERS)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        return measure_alone(options.alone)
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        compare_workers(Path(folder), options.n)
        compare_numbers(Path(folder), options.numbers)
    return None


def compare_workers(folder: Path, n: int) -> None:
    """Time 1 and all workers on the same images."""
    write_pictures(folder / "large", n)
    samples = samples_in(folder / "large")
    extractor = LazyExtractor(backbone(None))
    readers = {
        workers: open_reader(extractor, folder / f"workers{workers}", workers)
        for workers in (1, cores())
    }
    for reader in readers.values():
        reader.pooled(samples[:1])  # builds the engine, which is not to be compared
    tasks = {
        f"{workers}": partial(extract_again, reader, samples, folder / f"workers{workers}")
        for workers, reader in readers.items()
    }
    seconds = medians(tasks, rounds=3)
    table(
        ["workers", "images/s", "x 1 worker"],
        [(name, f"{n / s:.1f}", f"{seconds['1'] / s:.2f}") for name, s in seconds.items()],
    )


def open_reader(extractor: LazyExtractor, cache: Path, workers: int) -> FeatureReader:
    """Return a reader on the CPU."""
    settings = FeaturesConfig(device="cpu", workers=workers)
    return FeatureReader(extractor, image_size=256, cache=cache, settings=settings)


def compare_numbers(folder: Path, numbers: Sequence[int]) -> None:
    """Measure time and peak memory for growing numbers of images."""
    rows = []
    for n in numbers:
        images = folder / f"small{n}"
        write_pictures(images, n, size=64)
        command = [sys.executable, "-m", "benchmarks.scaling", "--alone", str(images)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append((n, *output.split()))
    table(["images", "cold ms/image", "warm ms/image", "peak MB", "features MB"], rows)


def measure_alone(images: Path) -> None:
    """Print the times and the peak memory of this process."""
    samples = samples_in(images)
    tiny = BackboneConfig(
        name="tiny",
        factory="tests.tiny:build",
        layers=["features"],
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )
    with tempfile.TemporaryDirectory() as cache:
        settings = FeaturesConfig(device="cpu", engine="torch")
        reader = FeatureReader(LazyExtractor(tiny), image_size=64, cache=cache, settings=settings)
        tasks = {"pooled": lambda: reader.pooled(samples), "maps": lambda: consume(reader, samples)}
        reader.pooled(samples[:1])
        started = time.perf_counter()
        pooled = reader.pooled(samples)
        cold = time.perf_counter() - started
        warm = sum(medians(tasks, rounds=1).values())
    # Not getrusage, which counts the parent that this process was started from, too.
    peak = status_bytes("VmHWM") / 1e6
    per_image = (f"{1000 * seconds / len(samples):.2f}" for seconds in (cold, warm))
    print(*per_image, f"{peak:.0f}", f"{pooled.nbytes / 1e6:.1f}")


def consume(reader: FeatureReader, samples: Sequence[Sample]) -> None:
    """Look at each feature map once."""
    for _ in reader.maps(samples):
        pass


if __name__ == "__main__":
    main()
