"""Synthetic runs: invented scores that no detector gave; they stand in no table of the project."""

from __future__ import annotations

import math

from harness.record import ImageScore, Record, StoredRun

CATEGORIES = ("bolt", "cap", "01")
SETTINGS = {
    "image_size": "256",
    "localizer": "occlusion",
    "model.n_components": "16",
    "backbone.layers": "layer4",
    "backbone.mean": "0.5,0.25",
}


def scores(draw: int, n_normal: int = 12, n_anomalous: int = 20) -> tuple[ImageScore, ...]:
    """Invent scores without a random generator: the same on every machine for ever."""
    normal = [
        ImageScore(f"c/test/good/{i:03}.png", "good", False, math.sin(draw + 7.0 * i) * 3)
        for i in range(n_normal)
    ]
    anomalous = [
        ImageScore(f"c/test/{kind}/{i:03}.png", kind, True, 2.5 + math.cos(draw * 3 + 5.0 * i) * 3)
        for kind, half in (("bent", range(n_anomalous // 2)), ("crack", range(n_anomalous // 2)))
        for i in half
    ]
    return tuple(anomalous + normal)


def metrics(images: tuple[ImageScore, ...]) -> dict[str, float]:
    """Count the image metrics of invented scores pair by pair."""
    normal = [image.score for image in images if not image.anomalous]
    anomalous = [image.score for image in images if image.anomalous]
    wins = sum((a > b) + 0.5 * (a == b) for a in anomalous for b in normal)
    f1 = [
        2 * tp / (tp + fp + len(anomalous))
        for t in normal + anomalous
        for tp, fp in [(sum(a >= t for a in anomalous), sum(b >= t for b in normal))]
    ]
    auroc = wins / len(normal) / len(anomalous)
    return {
        "image_auroc": auroc,
        "image_f1_max": max(f1),
        "pixel_auroc": 0.9 + auroc / 100,
        "pixel_aupro": 0.5 + auroc / 10,
    }


def record(category: str, draw: int = 1, **changes: object) -> Record:
    """Invent a record of the synthetic dataset; `changes` replace fields."""
    images = scores(draw)
    values: dict[str, object] = {
        "dataset": "parts",
        "category": category,
        "model": "dfkde",
        "backbone": "tiny",
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
        "durations": {"features": 1.25, "fit": 0.5},
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


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
