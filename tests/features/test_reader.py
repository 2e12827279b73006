from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from harness.config import FeaturesConfig
from harness.features import FeatureReader
from harness.features.inputs import read_input

SIZE = 32


def naive(extractor, samples):
    images = [read_input(s.path, image_size=SIZE) for s in samples]
    with torch.inference_mode():
        pairs = [extractor(torch.from_numpy(image[None])) for image in images]
    return [tuple(part[0].numpy() for part in pair) for pair in pairs]


def test_pooled_equals_one_image_at_a_time(extractor, samples, tmp_path):
    reader = FeatureReader(extractor, image_size=SIZE, cache=tmp_path / "cache")
    expected = np.stack([pooled for pooled, _ in naive(extractor, samples)])
    np.testing.assert_allclose(reader.pooled(samples), expected, rtol=1e-5, atol=1e-6)


def test_maps_equal_one_image_at_a_time_in_order(extractor, samples, tmp_path):
    reader = FeatureReader(extractor, image_size=SIZE, cache=tmp_path / "cache")
    shuffled = samples[::-1]
    for found, (_, expected) in zip(reader.maps(shuffled), naive(extractor, shuffled), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_pooled_is_the_mean_of_the_maps(extractor, samples):
    reader = FeatureReader(extractor, image_size=SIZE, cache=None)
    maps = np.stack(list(reader.maps(samples)))
    np.testing.assert_allclose(reader.pooled(samples), maps.mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_every_image_goes_through_the_backbone_once(extractor, samples, tmp_path):
    first = FeatureReader(extractor, image_size=SIZE, cache=tmp_path / "cache")
    pooled, maps = first.pooled(samples), list(first.maps(samples))
    second = FeatureReader(extractor, image_size=SIZE, cache=tmp_path / "cache")
    np.testing.assert_array_equal(second.pooled(samples), pooled)
    np.testing.assert_array_equal(np.stack(list(second.maps(samples))), np.stack(maps))
    assert (first.n_extracted, second.n_extracted) == (len(samples), 0)


def test_without_maps_a_map_costs_a_second_pass(extractor, samples, tmp_path):
    settings = FeaturesConfig(maps=False)
    reader = FeatureReader(extractor, image_size=SIZE, cache=tmp_path, settings=settings)
    reader.pooled(samples)
    list(reader.maps(samples[:3]))
    assert reader.n_extracted == len(samples) + 3


def test_a_damaged_entry_is_extracted_again_with_a_warning(extractor, samples, tmp_path):
    reader = FeatureReader(extractor, image_size=SIZE, cache=tmp_path / "cache")
    pooled = reader.pooled(samples)
    entry = next((tmp_path / "cache").rglob(f"{samples[4].digest}.pooled"))
    data = bytearray(entry.read_bytes())
    data[-3] ^= 1
    entry.write_bytes(data)
    with pytest.warns(UserWarning, match="extracted again"):
        np.testing.assert_array_equal(reader.pooled(samples), pooled)
    assert reader.n_extracted == len(samples) + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("engine", "tensorrt"), ("precision", "int8"), ("device", "tpu"), ("resize", "cv2")],
)
def test_an_unknown_setting_names_itself_and_its_choices(extractor, tmp_path, field, value):
    settings = FeaturesConfig(**{field: value})
    with pytest.raises(ValueError, match=f"^{field} must be one of .*{value}"):
        FeatureReader(extractor, image_size=SIZE, cache=tmp_path, settings=settings)


def test_importing_the_package_imports_no_engine():
    code = (
        "import sys, harness.features;"
        "print({'torch', 'onnxruntime', 'openvino', 'dfkde'} & set(sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "set()"
