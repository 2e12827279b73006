"""Time and memory of the pixel metrics beside scikit-learn, torchmetrics and one bare sort.

    pip install '.[bench]'  # torchmetrics
    python -m benchmarks.metrics

Each row is measured in a process of its own, which also times `np.sort` of the same floats in
turns with it: the ratio is the median of those of each turn, and so holds on a busy machine too.
Memory is what the row adds above its input at peak (Linux). The maps are float32, which others
take too, and float64, which a job makes. The masks are those of MVTec AD bottle where
`DFKDE_TEST_DATA` names a folder that has them, else ellipses; the maps are synthetic: noise on a
coarse grid, raised on the defects, upsampled bilinearly and smoothed, as a localizer makes them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine, status_bytes, table
from harness.metrics import pixel_metrics

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FULL = (83, 900, 900)
VISA = (200, 1562, 960)
QUICK = (83, 128, 128)

PACKAGES = ("numpy", "opencv-python-headless", "scikit-learn", "torch", "torchmetrics")
VALUES = ("pixel_auroc", "pixel_average_precision")
COLUMNS = ("", "threads", "s", "CPU s", "of one sort", "MB above input", "AUROC", "AP")

Case = Callable[[NDArray[np.bool_], NDArray[np.floating], int], dict[str, float]]


class Measured(NamedTuple):
    """The median times and the largest memory of several runs of one case.

    Attributes
    ----------
    seconds, cpu_seconds : float
        On the wall, and on all cores together.
    sort_seconds : float
        The same floats through one `np.sort`, in the same process; NaN for the streamed case.
    ratio : float
        Of the case to the sort before it, the median; NaN likewise.
    extra_bytes, sort_bytes : int
        What the case, and the sort, add at peak to the memory in use before.
    values : dict of str to float
        What it computed.
    """

    seconds: float
    cpu_seconds: float
    sort_seconds: float
    ratio: float
    extra_bytes: int
    sort_bytes: int
    values: dict[str, float]


def ours(gt_masks: NDArray[np.bool_], maps: NDArray[np.floating], threads: int) -> dict[str, float]:
    """All four pixel metrics."""
    names = [str(index) for index in range(len(maps))]

    def pairs() -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.float32]]]:
        return zip(names, gt_masks, maps, strict=True)

    return pixel_metrics(pairs, threads=threads).values


def sklearn_auroc(
    gt_masks: NDArray[np.bool_], maps: NDArray[np.floating], _threads: int
) -> dict[str, float]:
    """AUROC by scikit-learn."""
    from sklearn.metrics import roc_auc_score

    return {"pixel_auroc": float(roc_auc_score(gt_masks.ravel(), maps.ravel()))}


def sklearn_ap(
    gt_masks: NDArray[np.bool_], maps: NDArray[np.floating], _threads: int
) -> dict[str, float]:
    """Average precision by scikit-learn."""
    from sklearn.metrics import average_precision_score

    value = average_precision_score(gt_masks.ravel(), maps.ravel())
    return {"pixel_average_precision": float(value)}


def torchmetrics_auroc(
    gt_masks: NDArray[np.bool_], maps: NDArray[np.floating], threads: int
) -> dict[str, float]:
    """AUROC by torchmetrics, exact; the maps are in [0, 1], which it leaves as they are."""
    import torch
    from torchmetrics.functional.classification import binary_auroc

    torch.set_num_threads(threads)
    scores, labels = torch.from_numpy(maps).ravel(), torch.from_numpy(gt_masks).ravel()
    return {"pixel_auroc": float(binary_auroc(scores, labels.int()))}


CASES: dict[str, tuple[str, Case, int]] = {
    "ours": ("ours: AUROC, AUPRO, AP and F1-max", ours, 15),
    "sklearn_auroc": ("scikit-learn: AUROC", sklearn_auroc, 3),
    "sklearn_ap": ("scikit-learn: AP", sklearn_ap, 3),
    "torchmetrics_auroc": ("torchmetrics: AUROC", torchmetrics_auroc, 3),
}
DTYPES = ("float32", "float64")


def bottle_masks(height: int, width: int) -> list[NDArray[np.bool_]]:
    """Read the ground truth of MVTec AD bottle at this size; none where it is not there."""
    root = Path(os.environ.get("DFKDE_TEST_DATA", "")) / "mvtec_ad/bottle/ground_truth"
    masks = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(root.glob("*/*.png"))]
    size = (width, height)
    return [cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]


def ellipses(rng: np.random.Generator, height: int, width: int, scale: float) -> NDArray[np.bool_]:
    """One to three elliptic defects with semi-axes about `scale` of the image's height."""
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = tuple(int(axis) + 1 for axis in rng.uniform(0.5, 1.5, 2) * scale * height)
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask > 0


def smooth_map(rng: np.random.Generator, gt_mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Noise on a coarse grid, raised on the defects, upsampled and smoothed."""
    height, width = gt_mask.shape
    coarse = rng.uniform(0.0, 0.7, size=(29, 29)).astype(np.float32)
    noise = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    sigma = 4 * height / 256
    return cv2.GaussianBlur(noise + 0.3 * gt_mask.astype(np.float32), (0, 0), sigma)


def in_memory(
    shape: tuple[int, int, int],
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Masks and maps of a whole test set, a quarter of it normal, as two arrays."""
    n_images, height, width = shape
    rng = np.random.default_rng(0)
    defects = bottle_masks(height, width)
    gt_masks = np.zeros(shape, bool)
    for index in range(n_images // 4, n_images):
        ready = defects[index - n_images // 4 :][:1]
        gt_masks[index] = ready[0] if ready else ellipses(rng, height, width, 0.11)
    return gt_masks, np.stack([smooth_map(rng, mask) for mask in gt_masks])


def streamed(
    shape: tuple[int, int, int], dtype: str
) -> Callable[[], Iterator[tuple[str, NDArray[np.bool_], NDArray[np.float32]]]]:
    """Give a test set, half of it normal, that is never in memory as a whole."""
    n_images, height, width = shape
    rng = np.random.default_rng(0)
    gt_masks = [np.zeros((height, width), bool)] + [
        ellipses(rng, height, width, 0.04) for _ in range(3)
    ]
    maps = [smooth_map(rng, mask).astype(dtype) for mask in gt_masks]

    def pairs() -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.float32]]]:
        for index in range(n_images):
            kind = 0 if index % 2 else 1 + index // 2 % 3
            yield str(index), gt_masks[kind], maps[kind] * maps[kind].dtype.type(1 + index / 7919)

    return pairs


def measure(work: Callable[[], Any]) -> tuple[float, float, int, Any]:
    """Wall seconds, CPU seconds, bytes above the start at peak, and the result."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status_bytes("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, status_bytes("VmHWM") - before, result


def run_case(name: str, shape: tuple[int, int, int], *, dtype: str, threads: int) -> Measured:
    """Measure one case in this process, alternating with a sort of the same floats."""
    _, case, repeats = CASES[name]
    case(*in_memory((8, 32, 32)), threads)  # imports, outside the measurement
    gt_masks, maps = in_memory(shape)
    maps = maps.astype(dtype)
    sorts, runs = [], []
    for _ in range(repeats):
        sorts.append(measure(lambda: np.sort(maps.ravel())))
        runs.append(measure(lambda: case(gt_masks, maps, threads)))
    seconds, cpu_seconds, extra, values = zip(*runs, strict=True)
    sort_seconds = [each[0] for each in sorts]
    ratio = np.median(np.divide(seconds, sort_seconds))
    times = map(statistics.median, (seconds, cpu_seconds, sort_seconds))
    return Measured(*times, float(ratio), max(extra), sorts[0][2], values[0])


def run_streamed(shape: tuple[int, int, int], *, dtype: str, threads: int) -> Measured:
    """Measure the streamed case, without the time that two bare passes over the stream take."""
    pairs = streamed(shape, dtype)
    bare = measure(lambda: [name for _ in range(2) for name, _, _ in pairs()])
    wall, cpu, extra, result = measure(lambda: pixel_metrics(pairs, threads=threads))
    return Measured(wall - bare[0], cpu - bare[1], math.nan, math.nan, extra, 0, result.values)


def in_own_process(name: str, shape: tuple[int, int, int], *, dtype: str, threads: int) -> Measured:
    """Run one case in a fresh process with this many threads."""
    command = [sys.executable, "-m", "benchmarks.metrics", "--case", name, "--dtype", dtype]
    command += ["--threads", str(threads), "--shape", *map(str, shape)]
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(done.stdout))


def print_tables(full: tuple[int, int, int], visa: tuple[int, int, int]) -> None:
    """Run everything and print Markdown."""
    print(machine(PACKAGES), end="\n\n")
    for dtype, others in zip(DTYPES, (list(CASES), ["ours"]), strict=True):
        size = np.dtype(dtype).itemsize * np.prod(full) / 1e6
        print(f"{full[0]} maps of {full[1]} x {full[2]}, {dtype}: {size:.0f} MB\n")
        table(COLUMNS, in_memory_rows(full, dtype, {1: others, 2: ["ours", *others[3:]]}))
    print(f"{visa[0]} maps of {visa[1]} x {visa[2]}, streamed\n")
    rows = [
        row(f"{CASES['ours'][0]}; {dtype}", threads, measured)
        for dtype in DTYPES
        for threads in (1, 2)
        for measured in [in_own_process("streamed", visa, dtype=dtype, threads=threads)]
    ]
    table(COLUMNS, rows)


def in_memory_rows(
    shape: tuple[int, int, int], dtype: str, names: Mapping[int, Sequence[str]]
) -> list[tuple[object, ...]]:
    """Measure cases by number of threads; the first line is the sort of the first of them."""
    rows = []
    for threads, several in names.items():
        for name in several:
            measured = in_own_process(name, shape, dtype=dtype, threads=threads)
            if not rows:
                sort = (f"{measured.sort_seconds:.2f}", "", 1, f"{measured.sort_bytes / 1e6:.0f}")
                rows.append(("`np.sort`", 1, *sort, "", ""))
            rows.append(row(CASES[name][0], threads, measured))
    return rows


def row(title: str, threads: int, measured: Measured) -> tuple[object, ...]:
    """One line of the table."""
    return (
        title,
        threads,
        f"{measured.seconds:.2f}",
        f"{measured.cpu_seconds:.2f}",
        _number(measured.ratio, ".1f"),
        f"{measured.extra_bytes / 1e6:.0f}",
        *(_number(measured.values.get(name, math.nan), ".9f") for name in VALUES),
    )


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def main() -> None:
    """Print the tables, or measure the one case that a child process was started for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny maps: shows that it runs")
    parser.add_argument("--case", choices=[*CASES, "streamed"], help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=3, default=FULL, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is None:
        print_tables(*((QUICK, QUICK) if options.quick else (FULL, VISA)))
        return
    cv2.setNumThreads(options.threads)
    shape = tuple(options.shape)
    if options.case == "streamed":
        measured = run_streamed(shape, dtype=options.dtype, threads=options.threads)
    else:
        measured = run_case(options.case, shape, dtype=options.dtype, threads=options.threads)
    print(json.dumps(measured._asdict()))


if __name__ == "__main__":
    main()
