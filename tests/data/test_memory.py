"""A split of many images is light: their features are what a job should spend memory on."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from harness.config import DatasetConfig
from harness.data import load_split

FEW, MANY = 200, 1200


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)

    def write(n):
        for folder, number in (("normal", n * 9 // 10), ("abnormal", n // 10)):
            place = tmp_path / str(n) / folder
            place.mkdir(parents=True)
            for k in range(number):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{k:05}.png")
        root = str(tmp_path / str(n))
        return DatasetConfig(
            "folder", "Folder", "folder", ["all"], root=root, official=False, train_share=0.8
        )

    return write


def _traced(dataset):
    """Return the bytes that a split read again holds, and the most that reading it took."""
    load_split(dataset, "all", seed=42)  # caches the digests, so that none is decoded below
    tracemalloc.start()
    try:
        split = load_split(dataset, "all", seed=42)
        return split, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_an_image_costs_less_than_half_a_kilobyte(dataset):
    (few, held_few, most_few), (many, held, most) = (_traced(dataset(n)) for n in (FEW, MANY))
    n_more = len(many.train + many.test) - len(few.train + few.test)
    assert n_more == MANY - FEW
    assert (held - held_few) / n_more < 500
    assert (most - most_few) / n_more < 1500
