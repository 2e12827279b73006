"""Scaling of extraction: threads and processes, 100 to 10,000 images, time and memory.

Run: `python -m benchmarks.scaling`. Threads and processes are compared on 900 x 900 PNG files with
a ResNet50. Growing numbers of small images go through a whole `evaluate` without anomaly maps, with
a ResNet18 of 512 features or, on request, a ResNet50 of 2,048: first with an empty cache, then from
the cache, each in a process of its own, whose peak memory is set against the size of the features.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.measure import (
    Alone,
    extract_again,
    extractor_of,
    machine,
    medians,
    samples_in,
    status_bytes,
    table,
    write_pictures,
)
from harness.config import BackboneConfig, DatasetConfig, FeaturesConfig, Job, ModelConfig
from harness.experiment import evaluate
from harness.features.reader import FeatureReader
from harness.system.threads import cores

NUMBERS = (100, 1000, 10_000)
SIZE = 64
N_FEATURES = {"resnet18": 512, "resnet50": 2048}


def main() -> None:
    """Print both tables, or measure one number of images in a process of its own."""
    options = _options()
    if options.alone:
        return measure_alone(options.alone, options.network)
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        compare_workers(Path(folder), options.n)
        compare_numbers(Path(folder), options.numbers, network=options.network)
    return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=64, help="images for the comparison of workers")
    parser.add_argument("--numbers", type=int, nargs="+", default=NUMBERS)
    parser.add_argument("--network", choices=N_FEATURES, default="resnet18")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare_workers(folder: Path, n: int) -> None:
    """Time one thread, as many as there are cores, and as many processes of one thread."""
    images, k = folder / "large", cores()
    write_pictures(images, n)
    processes = [Alone(again_task, images, folder / f"process{i}", 1, (i, k)) for i in range(k)]
    tasks: dict[str, Callable[[], object]] = {
        "1 process, 1 thread": Alone(again_task, images, folder / "one", 1, (0, 1)),
        f"1 process, {k} threads": Alone(again_task, images, folder / "threads", k, (0, 1)),
        f"{k} processes, 1 thread each": partial(at_once, processes),
    }
    seconds = medians(tasks, rounds=3)
    base = seconds["1 process, 1 thread"]
    table(
        ["workers", "images/s", "x 1 worker"],
        [(name, f"{n / s:.1f}", f"{base / s:.2f}") for name, s in seconds.items()],
    )


def again_task(images: Path, cache: Path, workers: int, part: tuple[int, int]) -> Callable:
    """Extract every k-th image again and again, the engine being built."""
    first, step = part
    samples = samples_in(images)[first::step]
    settings = FeaturesConfig(device="cpu", workers=workers)
    extractor = extractor_of(None)
    reader = FeatureReader(extractor, image_size=256, cache=cache, settings=settings)
    reader.prepare()
    return partial(extract_again, reader, samples, cache)


def at_once(processes: Sequence[Alone]) -> None:
    """Let every process do its task, and wait for the last one."""
    with ThreadPoolExecutor(len(processes)) as pool:
        list(pool.map(lambda process: process(), processes))


def compare_numbers(folder: Path, numbers: Sequence[int], *, network: str) -> None:
    """Measure time and peak memory of whole jobs for growing numbers of images."""
    import torch  # not in the processes that are measured
    from torchvision.models import get_model

    torch.save(get_model(network).state_dict(), folder / f"{network}.pth")
    rows, program = [], [sys.executable, "-m", "benchmarks.scaling", "--network", network]
    for n in numbers:
        write_job(folder / f"small{n}", n)
        command = [*program, "--alone", str(folder / f"small{n}")]
        cold, warm = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            for _ in range(2)
        )
        rows.append(
            (n, cold[0], warm[0], cold[1], warm[1], f"{n * N_FEATURES[network] * 4 / 1e6:.1f}")
        )
    columns = ["cold ms/image", "warm ms/image", "cold peak MB", "warm peak MB", "features MB"]
    table(["images", *columns], rows)


def write_job(folder: Path, n: int) -> None:
    """Write images in two folders, every tenth one as an anomalous one."""
    write_pictures(folder / "normal", n, size=SIZE)
    (folder / "abnormal").mkdir()
    for path in sorted((folder / "normal").iterdir())[::10]:
        path.rename(folder / "abnormal" / path.name)


def measure_alone(folder: Path, network: str) -> None:
    """Evaluate the images of a folder; print milliseconds per image and the peak of memory."""
    started = time.perf_counter()
    record = evaluate(job_of(folder, network))
    seconds = time.perf_counter() - started
    n = record.n_train + record.n_test_normal + record.n_test_anomalous
    # Not getrusage, which counts the parent that this process was started from, too.
    print(f"{1000 * seconds / n:.2f} {status_bytes('VmHWM') / 1e6:.0f}")


def job_of(folder: Path, network: str) -> Job:
    """Return the job of the images that `write_job` wrote."""
    return Job(
        dataset=DatasetConfig(
            "folder", "Folder", "folder", ["all"], root=str(folder), official=False, train_share=0.8
        ),
        category="all",
        backbone=BackboneConfig(
            name=network,
            factory="dfkde.backbones.torchvision:torchvision_model",
            arguments={"architecture": network},
            weights=str(folder.parent / f"{network}.pth"),
            layers=["layer4"],
            mean=[0.485, 0.456, 0.406],
            std=[0.229, 0.224, 0.225],
        ),
        model=ModelConfig("dfkde", "dfkde.density:DFKDE"),
        features=FeaturesConfig(device="cpu", cache=f"{folder}-cache"),
        image_size=SIZE,
        localizer="none",
    )


if __name__ == "__main__":
    main()
