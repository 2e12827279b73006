"""The maps of layers: one forward pass gives them all, and changes no bit of the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.config import BackboneConfig, FeaturesConfig
from harness.features.extractor import LazyExtractor
from harness.features.feature_cache import MAPS, POOLED, maps_of
from harness.features.reader import FeatureReader
from tests import tiny
from tests.features.images import write_image

LAYERS = ("features.0", "features")
SLOW = pytest.mark.slow
TINY = BackboneConfig(
    name="tiny", factory="tests.tiny:build", layers=["features"], mean=[0.5] * 3, std=[0.25] * 3
)


@pytest.fixture
def samples(tmp_path):
    (tmp_path / "images").mkdir()
    return [write_image(tmp_path / "images" / f"{k}.png", k, size=(64, 64)) for k in range(6)]


def open_reader(cache, layers=LAYERS, backbone=TINY, engine="torch", **changes):
    settings = FeaturesConfig(engine=engine, device="cpu", workers=2, **changes)
    extractor = LazyExtractor(backbone)
    return FeatureReader(
        extractor, image_size=64, cache=cache, settings=settings, map_layers=layers
    )


def naive(reader, sample):
    network = tiny.build().eval()
    image = torch.from_numpy(reader.spec.read(sample.path))[None]
    with torch.no_grad():
        fine = network.features[0]((image - 0.5) / 0.25)
        return fine[0].numpy(), network.features[1:](fine)[0].numpy()


def test_each_layer_has_its_own_map(samples, tmp_path):
    reader = open_reader(tmp_path / "cache")
    for sample, maps in zip(samples, reader.layer_maps(samples, LAYERS), strict=True):
        for found, expected in zip(maps, naive(reader, sample), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    turned = next(reader.layer_maps(samples, LAYERS[::-1]))
    assert [one.shape for one in turned] == [(24, 8, 8), (16, 16, 16)]


LITE = BackboneConfig(
    name="lite",
    factory="dfkde.backbones.efficientnet_lite:efficientnet_lite",
    arguments={"variant": 0},
    layers=["bn2"],
    mean=None,
    std=None,
)


@pytest.mark.parametrize(
    ("engine", "backbone", "every"),
    [
        ("torch", TINY, ("features", "features.0")),
        ("onnxruntime", TINY, ("features", "features.0")),
        pytest.param("openvino", TINY, ("features", "features.0"), marks=SLOW),
        pytest.param("torch", LITE, ("blocks.1", "blocks.2", "blocks.4"), marks=SLOW),
        pytest.param("onnxruntime", LITE, ("blocks.1", "blocks.2", "blocks.4"), marks=SLOW),
        pytest.param("openvino", LITE, ("blocks.1", "blocks.2", "blocks.4"), marks=SLOW),
    ],
)
def test_the_pass_of_more_layers_changes_no_bit(samples, engine, backbone, every):
    """So one section of the cache may hold what different passes wrote."""
    pytest.importorskip(engine)
    none, some, whole = (
        open_reader(None, layers, backbone, engine, maps=False).compute([samples[0].path])[0]
        for layers in ((), every[1:2], every)
    )
    for one in (some, whole):
        for kind in (POOLED, MAPS):
            np.testing.assert_array_equal(one[kind], none[kind])
    kind = maps_of(every[1])
    np.testing.assert_array_equal(some[kind], whole[kind])


def test_one_pass_writes_all_that_a_sweep_needs(samples, tmp_path):
    reader = open_reader(tmp_path / "cache")
    reader.pooled(samples)
    assert reader.n_extracted == len(samples)
    list(reader.maps(samples))
    for layers in (LAYERS, LAYERS[:1], LAYERS[1:]):
        list(reader.layer_maps(samples, layers))
    assert reader.n_extracted == len(samples)
    again = open_reader(tmp_path / "cache", LAYERS[:1])
    again.pooled(samples)
    list(again.layer_maps(samples, LAYERS[:1]))
    assert again.n_extracted == 0


def test_only_what_is_missing_is_extracted(samples, tmp_path):
    open_reader(tmp_path / "cache", ()).pooled(samples[:4])
    reader = open_reader(tmp_path / "cache", LAYERS[:1])
    reader.pooled(samples[:4])
    assert reader.n_extracted == 0
    reader.keep_layer_maps(samples, LAYERS[:1], maps=False)
    assert reader.n_extracted == len(samples)
    names = sorted(path.name.partition(".")[2] for path in (tmp_path / "cache").rglob("*.maps"))
    assert names == ["features.0.maps"] * 6 + ["maps"] * 4


def test_without_maps_in_the_cache_they_are_computed(samples, tmp_path):
    kept, fresh = open_reader(tmp_path / "a"), open_reader(tmp_path / "b", maps=False)
    fresh.keep_layer_maps(samples, LAYERS, maps=True)
    assert fresh.n_extracted == 0
    both = (reader.layer_maps(samples, LAYERS) for reader in (kept, fresh))
    for found, expected in zip(*both, strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert fresh.n_extracted == len(samples)
    assert not list((tmp_path / "b").rglob("*.maps"))


def test_a_damaged_map_is_made_again(samples, tmp_path):
    expected = list(open_reader(tmp_path / "cache").layer_maps(samples, LAYERS))
    for path in (tmp_path / "cache").rglob("*.features.0.maps"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is made again") as warned:
        found = list(open_reader(tmp_path / "cache").layer_maps(samples, LAYERS))
    assert warned
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_a_layer_that_the_network_has_not_is_refused(tmp_path):
    extractor = LazyExtractor(replace(TINY), maps_of=["features.7"])
    with pytest.raises(ValueError, match=r"layers must be modules of the backbone.*'features.7'"):
        extractor.digests((1, 3, 64, 64))
