"""What engine, precision, resize and float16 maps do to the scores of a real category.

Run: `python -m benchmarks.precision --root FOLDER [--category bottle] [--factory MODULE:FUNCTION]`
with a folder in MVTec AD's layout.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.extraction import settings_of
from benchmarks.measure import extractor_of, machine, table
from dfkde import DFKDE, localizer, render
from harness.config import DatasetConfig, FeaturesConfig
from harness.data import Split, load_split, read_mask
from harness.features.extractor import LazyExtractor
from harness.features.reader import FeatureReader
from harness.metrics import image_metrics, pixel_metrics


@dataclass(frozen=True)
class Result:
    """Features and scores under one setting."""

    test: NDArray
    scores: NDArray
    auroc: float


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--category", default="bottle")
    parser.add_argument("--factory")
    options = parser.parse_args()
    dataset = DatasetConfig("mvtec", "MVTec AD", "mvtec", [options.category], options.root)
    split = load_split(dataset, options.category, seed=42)
    extractor = extractor_of(options.factory)
    print(f"{machine()}; {options.category}\n")
    with tempfile.TemporaryDirectory() as cache:
        compare_settings(extractor, split, Path(cache))
        compare_maps(extractor, split, Path(cache))


def compare_settings(extractor: LazyExtractor, split: Split, cache: Path) -> None:
    """Set every engine, precision and resize against the first."""
    choices = [(*setting, "pil") for setting in settings_of("cpu")]
    choices.append((*choices[0][:2], "float_antialias"))
    results = {
        choice: evaluate(open_reader(extractor, cache, *choice), split) for choice in choices
    }
    base = results[choices[0]]
    table(
        ["setting", "image AUROC", "difference", "rank correlation", "largest feature error"],
        [
            (
                " ".join(choice),
                f"{result.auroc:.4f}",
                f"{result.auroc - base.auroc:+.4f}",
                f"{spearmanr(result.scores, base.scores).statistic:.6f}",
                f"{np.abs(result.test - base.test).max() / np.abs(base.test).max():.1e}",
            )
            for choice, result in results.items()
        ],
    )


def open_reader(
    extractor: LazyExtractor, cache: Path, engine: str, precision: str, resize: str
) -> FeatureReader:
    """Return a reader on the CPU."""
    settings = FeaturesConfig(engine=engine, precision=precision, resize=resize, device="cpu")
    return FeatureReader(extractor, image_size=256, cache=cache, settings=settings)


def evaluate(reader: FeatureReader, split: Split) -> Result:
    """Fit the default model and score the test images."""
    train, test = reader.pooled(split.train), reader.pooled(split.test)
    scores = DFKDE().fit(train).anomaly_score(test)
    labels = [sample.anomalous for sample in split.test]
    return Result(test, scores, image_metrics(labels, scores).values["image_auroc"])


def compare_maps(extractor: LazyExtractor, split: Split, cache: Path) -> None:
    """Set anomaly maps from float16 feature maps against those from float32."""
    reader = open_reader(extractor, cache, *settings_of("cpu")[0], "pil")
    train = reader.pooled(split.train)
    locate = localizer("occlusion")
    if locate is None:
        return
    locate.fit(DFKDE().fit(train), train, reader.maps(split.train))
    rows = []
    for dtype in (np.float32, np.float16):
        grids = [
            locate.anomaly_map(m.astype(dtype).astype(np.float32)) for m in reader.maps(split.test)
        ]
        values = pixel_metrics(partial(pairs, split, grids), threads=1).values
        rows.append((np.dtype(dtype).name, *(f"{value:.7f}" for value in values.values())))
    table(["feature maps", *values], rows)


def pairs(split: Split, grids: list[NDArray]) -> Iterator[tuple[str, NDArray, NDArray]]:
    """Yield name, mask and anomaly map of each test image."""
    for sample, grid in zip(split.test, grids, strict=True):
        if sample.mask_path is None:
            gt_mask = np.zeros(sample.size, dtype=bool)
        else:
            gt_mask = read_mask(sample.mask_path, sample.mask_digest)
        yield sample.name, gt_mask, render(grid, size=gt_mask.shape)


if __name__ == "__main__":
    main()
