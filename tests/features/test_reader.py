from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.config import FeaturesConfig
from harness.data import DataError
from harness.features.feature_cache import POOLED, Store
from harness.features.inputs import read_input
from harness.features.reader import FeatureReader
from tests.features.images import sample_of
from tests.features.small import SIZE, TORCH


def open_reader(extractor, cache, **changes):
    settings = replace(TORCH, **changes)
    return FeatureReader(extractor, image_size=SIZE, cache=cache, settings=settings)


def naive(extractor, samples):
    images = [read_input(s.path, image_size=SIZE) for s in samples]
    with torch.inference_mode():
        pairs = [extractor(torch.from_numpy(image[None])) for image in images]
    return [tuple(part[0].numpy() for part in pair) for pair in pairs]


def test_pooled_equals_one_image_at_a_time(extractor, samples, tmp_path):
    reader = open_reader(extractor, tmp_path / "cache")
    expected = np.stack([pooled for pooled, _ in naive(extractor, samples)])
    np.testing.assert_allclose(reader.pooled(samples), expected, rtol=1e-5, atol=1e-6)


def test_maps_equal_one_image_at_a_time_in_order(extractor, samples, tmp_path):
    reader = open_reader(extractor, tmp_path / "cache")
    shuffled = samples[::-1]
    for found, (_, expected) in zip(reader.maps(shuffled), naive(extractor, shuffled), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_pooled_is_the_mean_of_the_maps(extractor, samples):
    reader = open_reader(extractor, None)
    maps = np.stack(list(reader.maps(samples)))
    np.testing.assert_allclose(reader.pooled(samples), maps.mean((2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_the_result_does_not_depend_on_workers_or_company(extractor, samples, tmp_path, engine):
    pytest.importorskip(engine)
    cache = tmp_path / "cache"
    reader = open_reader(extractor, cache, engine=engine)
    alone = [reader.pooled([sample])[0] for sample in samples]
    for workers in (1, 5):
        for entry in cache.rglob("*.pooled"):  # the translated network stays
            entry.unlink()
        other = open_reader(extractor, cache, engine=engine, workers=workers)
        np.testing.assert_array_equal(other.pooled(samples), alone)
        assert other.n_extracted == len(samples)


def test_every_image_goes_through_the_backbone_once(extractor, samples, tmp_path):
    first = open_reader(extractor, tmp_path / "cache")
    pooled, maps = first.pooled(samples), list(first.maps(samples))
    second = open_reader(extractor, tmp_path / "cache")
    np.testing.assert_array_equal(second.pooled(samples), pooled)
    np.testing.assert_array_equal(np.stack(list(second.maps(samples))), np.stack(maps))
    assert (first.n_extracted, second.n_extracted) == (len(samples), 0)


def test_a_cache_that_cannot_be_written_to_can_be_read(extractor, samples, tmp_path, monkeypatch):
    pooled = open_reader(extractor, tmp_path / "cache").pooled(samples)

    def refuse(path, **how):
        raise PermissionError(path)

    monkeypatch.setattr("os.utime", refuse)
    np.testing.assert_array_equal(
        open_reader(extractor, tmp_path / "cache").pooled(samples), pooled
    )


def test_a_full_disk_is_named(extractor, samples, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*cache.*'"):
        open_reader(extractor, tmp_path / "cache").pooled(samples)
    assert not list(tmp_path.rglob("*.part"))


def test_equal_images_are_computed_once(extractor, samples):
    copy = samples[0].path.with_name("copy.png")
    copy.write_bytes(samples[0].path.read_bytes())
    reader = open_reader(extractor, None)
    pooled = reader.pooled([*samples, sample_of(copy)])
    np.testing.assert_array_equal(pooled[0], pooled[-1])
    assert reader.n_extracted == len(samples)


def test_a_crop_has_features_of_its_own(extractor, samples, tmp_path):
    whole = open_reader(extractor, tmp_path / "cache")
    cropped = FeatureReader(
        extractor, image_size=SIZE, cache=tmp_path / "cache", settings=TORCH, center_crop=SIZE // 2
    )
    assert cropped.pooled(samples).shape == whole.pooled(samples).shape
    assert (whole.n_extracted, cropped.n_extracted) == (len(samples), len(samples))
    images = [read_input(s.path, image_size=SIZE)[:, 8:24, 8:24] for s in samples]
    with torch.no_grad():
        pooled, maps = extractor(torch.from_numpy(np.stack(images)))
    np.testing.assert_allclose(cropped.pooled(samples), pooled, rtol=1e-4, atol=1e-5)
    assert next(cropped.maps(samples)).shape == maps.shape[1:]


@pytest.mark.parametrize("change", [{"resize": "float_antialias"}, {"precision": "bf16"}])
def test_other_settings_share_no_features(extractor, samples, tmp_path, change):
    reader = open_reader(extractor, tmp_path / "cache")
    other = open_reader(extractor, tmp_path / "cache", **change)
    reader.pooled(samples)
    other.pooled(samples)
    assert other.n_extracted == len(samples)


def test_without_maps_none_is_kept_and_each_costs_a_pass(extractor, samples, tmp_path):
    reader = open_reader(extractor, tmp_path / "cache", maps=False)
    reader.pooled(samples)
    expected = list(open_reader(extractor, None).maps(samples))
    for k in (1, 2):
        np.testing.assert_array_equal(list(reader.maps(samples)), expected)
        assert reader.n_extracted == (1 + k) * len(samples)
    assert not list(tmp_path.rglob("*.maps"))


def test_without_maps_an_unreadable_image_is_named(extractor, samples, tmp_path):
    reader = open_reader(extractor, tmp_path / "cache", maps=False)
    samples[2].path.write_bytes(b"no image")
    with pytest.raises(DataError, match=samples[2].name):
        list(reader.maps(samples))


def test_a_map_that_is_evicted_at_once_is_still_returned(extractor, samples, tmp_path, monkeypatch):
    expected = list(open_reader(extractor, None).maps(samples))
    monkeypatch.setattr(Store, "read", lambda *args: None)
    found = list(open_reader(extractor, tmp_path / "cache").maps(samples))
    np.testing.assert_array_equal(found, expected)


def test_warm_features_are_one_array_and_no_more(extractor, samples, tmp_path):
    reader = open_reader(extractor, tmp_path / "cache")
    store = Store(tmp_path / "cache", reader.spec)
    many = [replace(samples[0], digest=f"{k:064}") for k in range(300)]
    rows = np.random.default_rng(0).random((len(many), 2048), dtype=np.float32)
    for sample, row in zip(many, rows, strict=True):
        store.write(sample.digest, POOLED, row)
    tracemalloc.start()
    pooled = reader.pooled(many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(pooled, rows)
    assert peak < 1.2 * pooled.nbytes


@pytest.mark.parametrize("kind", ["pooled", "maps"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_entry_is_made_again_with_a_warning(extractor, samples, tmp_path, kind, harm):
    reader = open_reader(extractor, tmp_path / "cache")
    pooled, maps = reader.pooled(samples), list(reader.maps(samples))
    entry = next((tmp_path / "cache").rglob(f"{samples[4].digest}.{kind}"))
    data = bytearray(entry.read_bytes())
    data[-3] ^= harm == "flip"
    entry.write_bytes({"flip": data, "cut": data[:-1], "empty": b""}[harm])
    fresh = open_reader(extractor, tmp_path / "cache")
    with pytest.warns(UserWarning, match="made again"):
        again = fresh.pooled(samples), list(fresh.maps(samples))
    np.testing.assert_array_equal(again[0], pooled)
    np.testing.assert_array_equal(again[1], maps)
    assert fresh.n_extracted == 1


def test_an_unreadable_image_is_named_and_the_rest_is_kept(extractor, samples, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(samples[0].path.read_bytes()[:100])
    reader = open_reader(extractor, tmp_path / "cache", workers=1)
    with pytest.raises(DataError, match=r"broken\.png"):
        reader.pooled([*samples, sample_of(broken)])
    reader.pooled(samples)
    assert reader.n_extracted == len(samples)


def test_a_full_cache_keeps_working(extractor, samples, tmp_path):
    reader = open_reader(extractor, tmp_path / "cache", cache_limit_gb=1e-9)
    expected = open_reader(extractor, None)
    np.testing.assert_array_equal(reader.pooled(samples), expected.pooled(samples))
    for found, wanted in zip(reader.maps(samples), expected.maps(samples), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("field", "value"),
    [("engine", "tensorrt"), ("precision", "int8"), ("device", "tpu"), ("resize", "cv2")],
)
def test_an_unknown_setting_names_itself_and_its_choices(extractor, tmp_path, field, value):
    with pytest.raises(ValueError, match=rf"^(features\.)?{field} must be one of .*{value}"):
        open_reader(extractor, tmp_path, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("workers", -1), ("cache_limit_gb", 0.0), ("cache_limit_gb", math.nan)]
)
def test_a_number_that_cannot_be_names_itself_and_its_rule(extractor, tmp_path, field, value):
    with pytest.raises(ValueError, match=rf"^features\.{field} must be .*, got {value}$"):
        open_reader(extractor, tmp_path, **{field: value})


def test_onnxruntime_does_not_compute_in_bf16(extractor):
    settings = FeaturesConfig(engine="onnxruntime", precision="bf16", device="cpu")
    with pytest.raises(ValueError, match=r"engine must be one of .* precision bf16"):
        FeatureReader(extractor, image_size=SIZE, cache=None, settings=settings)


def test_importing_the_package_imports_no_engine():
    code = (
        "import sys, harness.features;"
        "print({'torch', 'onnxruntime', 'openvino'} & set(sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "set()"
