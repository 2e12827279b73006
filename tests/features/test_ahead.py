"""Reading while the engine is being built: bounded, without claims, and the same bits."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from harness.config import FeaturesConfig
from harness.data import DataError
from harness.features import extraction
from harness.features import inputs as inputs_module
from harness.features import reader as reader_module
from harness.features.extraction import Inputs
from harness.features.reader import FeatureReader
from harness.features.spec import recipe_of
from tests.features.images import PLAIN, PlainEngine, sample_of

SIZE = 32
PIXELS = 3 * SIZE * SIZE


def recipe(**changes):
    settings = FeaturesConfig(engine="torch", device="cpu", **changes)
    return recipe_of(PLAIN, image_size=SIZE, settings=settings)


class Counted:
    """Counts how often each image file is read."""

    def __init__(self, monkeypatch):
        self.paths: list[Path] = []
        self._decode = inputs_module.decode
        monkeypatch.setattr(inputs_module, "decode", self)

    def __call__(self, data, path):
        self.paths.append(path)
        return self._decode(data, path)


def wait_for(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come to pass in 10 s")


@pytest.mark.parametrize("resize", ["pil", "float_antialias"])
def test_an_input_is_the_same_ahead_of_time_and_in_time(samples, resize, monkeypatch):
    counted = Counted(monkeypatch)
    inputs = Inputs(recipe(resize=resize))
    with inputs.read_ahead(samples, threads=2):
        wait_for(lambda: len(counted.paths) == len(samples))
    found = [inputs.take(sample) for sample in samples]
    assert len(counted.paths) == len(samples)
    for sample, pixels in zip(samples, found, strict=True):
        expected = recipe(resize=resize).read(sample.path)
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels, expected)


def test_the_bytes_read_ahead_are_bounded(samples, monkeypatch):
    monkeypatch.setattr(extraction, "LIMIT", 3 * PIXELS)
    counted = Counted(monkeypatch)
    with Inputs(recipe()).read_ahead(samples, threads=1):
        wait_for(lambda: len(counted.paths) == 3)
        time.sleep(0.05)
    assert counted.paths == [sample.path for sample in samples[:3]]


def test_no_thread_reads_nothing(samples, monkeypatch):
    counted = Counted(monkeypatch)
    with Inputs(recipe()).read_ahead(samples, threads=0):
        time.sleep(0.05)
    assert not counted.paths


def test_reading_ahead_ends_with_the_block_even_if_that_fails(samples, monkeypatch):
    def slowly(data, path):
        time.sleep(0.05)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr("harness.features.inputs.decode", slowly)
    inputs = Inputs(recipe())
    with pytest.raises(RuntimeError, match="no engine"), inputs.read_ahead(samples, threads=1):
        raise RuntimeError("no engine")
    assert len(inputs._pixels) <= 1


def test_images_are_read_while_the_engine_is_built_and_only_once(samples, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)

    def build(*args, **settings):
        wait_for(lambda: len(counted.paths) == len(samples))
        assert not list(tmp_path.rglob("*.lock")), "no image is claimed for reading ahead"
        return PlainEngine()

    monkeypatch.setattr(reader_module, "build_engine", build)
    settings = FeaturesConfig(engine="torch", device="cpu", workers=2)
    reader = FeatureReader(PLAIN, image_size=SIZE, cache=tmp_path / "cache", settings=settings)
    found = reader.pooled(samples)
    assert sorted(counted.paths) == sorted(sample.path for sample in samples)
    images = np.stack([recipe().read(sample.path) for sample in samples])
    np.testing.assert_array_equal(found, PlainEngine()(images)[0])


def test_an_unreadable_image_is_named_in_its_turn(samples, tmp_path, monkeypatch):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")

    def build(*args, **settings):
        time.sleep(0.2)
        return PlainEngine()

    monkeypatch.setattr(reader_module, "build_engine", build)
    settings = FeaturesConfig(engine="torch", device="cpu", workers=2)
    reader = FeatureReader(PLAIN, image_size=SIZE, cache=tmp_path / "cache", settings=settings)
    with pytest.raises(DataError, match=r"broken\.png"):
        reader.pooled([sample_of(broken), *samples])


def test_an_image_replaced_while_it_is_read_ahead_is_read_again_in_its_turn(samples, monkeypatch):
    counted = Counted(monkeypatch)
    first, kept = samples[0], samples[0].path.read_bytes()
    first.path.write_bytes(samples[1].path.read_bytes())
    inputs = Inputs(recipe())
    with inputs.read_ahead(samples, threads=1):
        wait_for(lambda: samples[-1].path in counted.paths)
    with pytest.raises(DataError, match=r"000\.png: changed while the job ran"):
        inputs.take(first)
    first.path.write_bytes(kept)
    np.testing.assert_array_equal(inputs.take(first), recipe().read(first.path))


def test_nothing_read_ahead_of_a_replaced_image_reaches_the_cache(samples, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    first, kept = samples[0], samples[0].path.read_bytes()
    first.path.write_bytes(samples[1].path.read_bytes())

    def build(*args, **settings):
        wait_for(lambda: samples[-1].path in counted.paths)
        first.path.write_bytes(kept)
        return PlainEngine()

    monkeypatch.setattr(reader_module, "build_engine", build)
    settings = FeaturesConfig(engine="torch", device="cpu", workers=2)
    reader = FeatureReader(PLAIN, image_size=SIZE, cache=tmp_path / "cache", settings=settings)
    found = reader.pooled(samples)
    images = np.stack([recipe().read(sample.path) for sample in samples])
    np.testing.assert_array_equal(found, PlainEngine()(images)[0])
    stored = FeatureReader(PLAIN, image_size=SIZE, cache=tmp_path / "cache", settings=settings)
    np.testing.assert_array_equal(stored.pooled(samples), found)
    assert stored.n_extracted == 0
