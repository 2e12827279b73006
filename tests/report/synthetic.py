"""Synthetic runs: invented scores that no detector gave; they are in no table of the project."""

from __future__ import annotations

import math

from harness.record import ImageScore, Record, StoredRun

SETTINGS = {
    "backbone.layers": "layer4",
    "backbone.mean": "0.5,0.25",
    "image_size": "256",
    "center_crop": "None",
    "localizer": "occlusion",
    "model.n_components": "16",
    "n_train": "None",
    "features.precision": "fp32",
}
NO_MASKS = {
    "pixel_auroc": "the dataset has no ground truth masks",
    "aupro": "the dataset has no ground truth masks",
}


def scores(draw: int, n_normal: int = 12, n_anomalous: int = 20) -> tuple[ImageScore, ...]:
    """Invent scores without a random generator, rounded: the same on every machine for ever."""
    anomalous = [
        ImageScore(f"c/test/{kind}/{i:03}.png", kind, True, round(3 + 3 * math.cos(draw + i), 3))
        for kind, first in (("bent", 0), ("crack", n_anomalous // 2))
        for i in range(first, first + n_anomalous // 2)
    ]
    normal = [
        ImageScore(f"c/test/good/{i:03}.png", "good", False, round(3 * math.sin(draw + 7 * i), 3))
        for i in range(n_normal)
    ]
    return tuple(anomalous + normal)


def metrics(images: tuple[ImageScore, ...]) -> dict[str, float]:
    """Count the image metrics of invented scores pair by pair, and invent pixel metrics."""
    normal = [image.score for image in images if not image.anomalous]
    anomalous = [image.score for image in images if image.anomalous]
    wins = sum((a > b) + 0.5 * (a == b) for a in anomalous for b in normal)
    f1 = [
        2 * tp / (tp + fp + len(anomalous))
        for t in normal + anomalous
        for tp, fp in [(sum(a >= t for a in anomalous), sum(b >= t for b in normal))]
    ]
    auroc = wins / (len(normal) * len(anomalous))
    return {
        "image_auroc": auroc,
        "image_f1_max": max(f1),
        "pixel_auroc": 0.875 + auroc / 16,
        "aupro": 0.5 + auroc / 8,
    }


def record(category: str, draw: int = 1, **changes: object) -> Record:
    """Invent a record of the synthetic dataset; `changes` replace fields."""
    images = scores(draw)
    values: dict[str, object] = {
        "dataset": "parts",
        "category": category,
        "model": "dfkde",
        "backbone": "tiny",
        "model_factory": "dfkde:DFKDE",
        "backbone_factory": f"nowhere:{changes.get('backbone', 'tiny')}",
        "seed": 42,
        "settings": SETTINGS,
        "weights_digest": "ab" * 32,
        "data_fingerprint": f"{draw:02x}" * 32,
        "official": True,
        "n_train": 30,
        "n_test_normal": 12,
        "n_test_anomalous": 20,
        "metrics": metrics(images),
        "scores": images,
        "durations": {"features": 1.25, "model": 0.5},
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def maskless(category: str, draw: int = 1, **changes: object) -> Record:
    """Invent a record of the synthetic dataset without masks."""
    values = {k: v for k, v in metrics(scores(draw)).items() if k.startswith("image")}
    settings = SETTINGS | {"image_size": "128", "model.n_components": "8"}
    fixed = {"dataset": "cells", "settings": settings, "metrics": values, "undefined": NO_MASKS}
    return record(category, draw, **(fixed | changes))


def few_shot(category: str, n_train: int, seed: int, draw: int) -> Record:
    """Invent a record of the synthetic few-shot sweep."""
    settings = SETTINGS | {"n_train": str(n_train)}
    return record(category, draw, seed=seed, settings=settings, n_train=n_train)


def run(run_id: str, of: Record, **changes: object) -> StoredRun:
    """Wrap a record as a finished run; `changes` replace fields."""
    values: dict[str, object] = {
        "run_id": run_id,
        "status": "finished",
        "identity": f"{run_id:0<8}" * 8,
        "record": of,
        "error": None,
        "started": "2025-01-02T03:04:05Z",
        "commit": "c0ffee" * 6 + "c0ff",
        "dirty": False,
        "versions": {"python": "3.12.0", "numpy": "2.1.0"},
        "machine": {"system": "Linux x86_64", "processor": "invented", "cores": "2"},
    }
    return StoredRun(**(values | changes))  # type: ignore[arg-type]


def failed(run_id: str, category: str, error: str, **changes: object) -> StoredRun:
    """Invent a failed run."""
    empty = record(category, metrics={}, scores=(), n_test_normal=0, n_test_anomalous=0)
    return run(run_id, empty, status="failed", error=error, **changes)


def complete() -> list[StoredRun]:
    """Invent the runs that fill `parts_tiny`, one of them with scores that separate perfectly."""
    apart = tuple(image._replace(score=image.score + 9 * image.anomalous) for image in scores(3))
    return [
        run("r-bolt", record("bolt", 1)),
        run("r-cap", record("cap", 2)),
        run("r-01", record("01", 3, scores=apart, metrics=metrics(apart))),
    ]


def sweep() -> list[StoredRun]:
    """Invent a mini sweep over every synthetic table: 13 runs, each kind of cell among them."""
    wide = {"backbone": "wide", "weights_digest": "cd" * 32}
    lost = failed("w-cap", "cap", "OSError: cap/test/bent/003.png\n is truncated")
    lost_wide = run(
        "w-cap", record("cap", metrics={}, scores=(), **wide), status="failed", error=lost.error
    )
    later = {"started": "2025-01-03T00:00:00Z", "machine": {"system": "Darwin arm64"}}
    return [
        *complete(),
        run("w-bolt", record("bolt", 5, **wide)),
        lost_wide,
        run("m-mono", maskless("mono", 4), **later),
        *(
            run(f"f-{category}-{n_train}-{seed}", few_shot(category, n_train, seed, draw))
            for category, n_train, seed, draw in (
                ("bolt", 4, 0, 6), ("bolt", 4, 1, 7), ("bolt", 8, 0, 8), ("bolt", 8, 1, 8),
                ("cap", 4, 0, 9), ("cap", 4, 1, 10), ("cap", 8, 0, 11),
            )
        ),
    ]  # fmt: skip
