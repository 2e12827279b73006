"""Coverage and speed of the report's bootstrap intervals, on simulated scores.

Normal scores are drawn from N(0, 1), anomalous ones from N(d, 1), with d such that the true AUROC
is known; an interval is right when it holds the true value. Ours (BCa) stands beside the plain
percentile interval of the same resamples, and beside the BCa interval of the best F1, which the
report does not print. Run: `python -m benchmarks.intervals [TRIALS]`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy import optimize, stats

from harness.record import ImageScore
from harness.report import bootstrap
from harness.report.bootstrap import (
    Images,
    Resampled,
    average_limits,
    cell_limits,
    images_of,
    resample,
)

SIZES = ((20, 63), (12, 30), (60, 100), (200, 200))
AUROCS = (0.75, 0.90, 0.97, 0.99)
RESAMPLES = 2000


def scores(rng: np.random.Generator, size: tuple[int, int], auroc: float) -> list[ImageScore]:
    """Draw the scores of one simulated test set."""
    normal, anomalous = rng.normal(0, 1, size[0]), rng.normal(_shift(auroc), 1, size[1])
    return [ImageScore("", "good", False, float(s)) for s in normal] + [
        ImageScore("", "defect", True, float(s)) for s in anomalous
    ]


def _shift(auroc: float) -> float:
    return float(stats.norm.ppf(auroc) * np.sqrt(2))


def f1_max(images: Images, *, key: str) -> Resampled:
    """Resample the largest F1 over all thresholds, and leave out each image."""
    normal, anomalous = images
    drawn = bootstrap.drawn(images, key=key, n=RESAMPLES)
    found = [_f1(normal[a], anomalous[b]) for i, j in drawn for a, b in zip(i, j, strict=True)]
    left_out = (
        np.array([_f1(np.delete(normal, i), anomalous) for i in range(len(normal))]),
        np.array([_f1(normal, np.delete(anomalous, i)) for i in range(len(anomalous))]),
    )
    return Resampled(_f1(normal, anomalous), np.array(found), left_out)


def _f1(normal: bootstrap.Floats, anomalous: bootstrap.Floats) -> float:
    hits, all_normal = np.sort(anomalous)[::-1], np.sort(normal)
    true_positives = np.searchsorted(-hits, -hits, side="right")
    called = true_positives + len(normal) - np.searchsorted(all_normal, hits)
    return float((2 * true_positives / (called + len(anomalous))).max())


def true_f1(size: tuple[int, int], auroc: float) -> float:
    """Compute the largest F1 over thresholds of the two distributions themselves."""

    def negative(t: float) -> float:
        tp, fp = size[1] * stats.norm.sf(t - _shift(auroc)), size[0] * stats.norm.sf(t)
        return float(-2 * tp / (tp + fp + size[1]))

    return float(-optimize.minimize_scalar(negative, bounds=(-6, 8), method="bounded").fun)


def coverage(trials: int, size: tuple[int, int], auroc: float) -> str:
    """Simulate test sets of one kind; report how often each interval holds the truth."""
    rng = np.random.default_rng([size[0], round(auroc * 100)])
    best, hits = true_f1(size, auroc), np.zeros(3)
    for trial in range(trials):
        drawn = scores(rng, size, auroc)
        images = images_of(drawn)
        resampled = resample(images, key=f"trial {trial}", n=RESAMPLES)
        f1 = bootstrap.interval(f1_max(images, key=f"{trial}"))
        plain = np.quantile(resampled.resamples, (0.025, 0.975))
        for column, (limits, truth) in enumerate(
            ((cell_limits(resampled), auroc), (plain, auroc), (f1 or (best, best), best))
        ):
            hits[column] += limits[0] <= truth <= limits[1]
    shares = " | ".join(f"{share:.3f}" for share in hits / trials)
    return f"| {size[0]} + {size[1]} | {auroc:.2f} | {shares} |"


def average_coverage(trials: int) -> float:
    """Report how often the interval of an average over 15 categories holds the truth."""
    rng = np.random.default_rng(0)
    sizes = list(zip(range(12, 57, 3), range(30, 135, 7), strict=True))
    aurocs = np.linspace(0.7, 0.99, len(sizes))
    hits = 0
    for trial in range(trials):
        cells = [
            resample(images_of(scores(rng, size, auroc)), key=f"{trial} {c}", n=RESAMPLES)
            for c, (size, auroc) in enumerate(zip(sizes, aurocs, strict=True))
        ]
        low, high = average_limits(cells)
        hits += low <= aurocs.mean() <= high
    return hits / trials


def seconds(resamples: int) -> float:
    """Time the intervals of 30 cells of MVTec's, BTAD's and VisA's kind."""
    rng = np.random.default_rng(0)
    cells = [scores(rng, size, 0.9) for size in [(20, 63), (60, 40), (100, 100)] * 10]
    started = time.perf_counter()
    for number, cell in enumerate(cells):
        cell_limits(resample(images_of(cell), key=f"{number}", n=resamples))
    return time.perf_counter() - started


def main() -> None:
    """Print the coverage table and the times."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.intervals", description=main.__doc__
    )
    parser.add_argument("trials", type=int, nargs="?", default=1000, help="simulated test sets")
    trials = parser.parse_args().trials
    print(f"nominal 0.950; {trials} simulated test sets each, {RESAMPLES:,} resamples\n")
    print("| normal + anomalous | true AUROC | AUROC, ours (BCa) | AUROC, percentile | best F1 |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for size in SIZES:
        for auroc in AUROCS:
            print(coverage(trials, size, auroc), flush=True)
    print(f"\naverage over 15 categories, ours: {average_coverage(trials // 2):.3f}")
    print(f"30 cells x 1,000 resamples: {seconds(1000):.2f} s")
    print(f"30 cells x 10,000 resamples: {seconds(10_000):.2f} s")


if __name__ == "__main__":
    main()
