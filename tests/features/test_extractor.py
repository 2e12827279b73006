"""A lazy extractor, and the memory of its digest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from harness.config import BackboneConfig, FeaturesConfig
from harness.features import FeatureReader, LazyExtractor, feature_reader, recipe
from harness.features.extractor import module_of
from harness.features.memo import remembered_digest

LITE = BackboneConfig(
    name="efficientnet_lite0",
    factory="dfkde.backbones.efficientnet_lite:efficientnet_lite",
    arguments={"variant": 0},
    layers=["bn2"],
    mean=[0.5, 0.5, 0.5],
    std=[0.5, 0.5, 0.5],
)
OWN = BackboneConfig(
    name="own", factory="my_networks:build", layers=["a"], mean=[0.5] * 3, std=[0.5] * 3
)
RANDOM = BackboneConfig(
    name="random",
    factory="dfkde.backbones.torchvision:torchvision_model",
    arguments={"architecture": "resnet18"},
    layers=["layer4"],
    mean=[0.5] * 3,
    std=[0.5] * 3,
)


class Computed:
    def __init__(self):
        self.n_calls = 0

    def __call__(self):
        self.n_calls += 1
        return "0" * 64


def test_the_digest_of_pinned_weights_is_remembered(tmp_path):
    compute = Computed()
    assert remembered_digest(LITE, str(tmp_path), compute=compute) == "0" * 64
    assert remembered_digest(LITE, str(tmp_path), compute=compute) == "0" * 64
    assert compute.n_calls == 1


@pytest.mark.parametrize("backbone", [OWN, RANDOM], ids=["own", "random"])
def test_a_digest_that_may_change_is_not_remembered(tmp_path, backbone):
    compute = Computed()
    for _ in range(2):
        remembered_digest(backbone, str(tmp_path), compute=compute)
    assert compute.n_calls == 2


def test_another_state_dict_has_another_digest(tmp_path):
    weights = tmp_path / "weights.pth"
    backbone = BackboneConfig(**{**vars(RANDOM), "weights": str(weights)})
    compute = Computed()
    for content in (b"one", b"three"):
        weights.write_bytes(content)
        remembered_digest(backbone, str(tmp_path), compute=compute)
    assert compute.n_calls == 2


@pytest.mark.parametrize("content", ["", "{}", "{'"])
def test_a_damaged_memory_is_replaced(tmp_path, content):
    compute = Computed()
    remembered_digest(LITE, str(tmp_path), compute=compute)
    place = next(tmp_path.rglob("*.json"))
    place.write_text(content)
    for _ in range(2):
        assert remembered_digest(LITE, str(tmp_path), compute=compute) == "0" * 64
    assert compute.n_calls == 2


def test_the_lazy_and_the_built_extractor_share_a_recipe():
    lazy = LazyExtractor(LITE)
    built = module_of(lazy)
    settings = FeaturesConfig(device="cpu")
    first, second = (
        recipe.recipe_of(extractor, image_size=64, settings=settings) for extractor in (lazy, built)
    )
    assert isinstance(built, torch.nn.Module)
    assert first == second


def test_recipes_without_a_crop_keep_their_keys():
    """A cache that was filled before there was a crop stays valid."""
    plain = recipe.Recipe(
        weights_digest="ab" * 32,
        layers=("features",),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        image_size=64,
        resize="pil",
        engine="torch",
        precision="fp32",
        device="cpu",
        batch=4,
        versions=("torch 2.0", "pillow 10.0"),
    )
    assert plain.key == "fb92b5541a39175f1db13b6d1658fc11"
    assert len({plain.key, *(replace(plain, center_crop=n).key for n in (32, 64))}) == 3


def test_a_warm_process_imports_no_torch(samples, tmp_path):
    settings = FeaturesConfig(device="cpu", engine="torch", cache=str(tmp_path / "cache"))
    reader = feature_reader(LITE, settings, image_size=64)
    assert isinstance(reader, FeatureReader)
    assert feature_reader(LITE, settings, image_size=64) is reader
    reader.pooled(samples[:2])
    digests = [sample.digest for sample in samples[:2]]
    code = f"""
import sys
from pathlib import Path
from harness.config import BackboneConfig, FeaturesConfig
from harness.data import Sample
from harness.features import feature_reader
reader = feature_reader(
    BackboneConfig(**{vars(LITE)!r}), FeaturesConfig(**{vars(settings)!r}), image_size=64
)
samples = [Sample(Path("gone"), "gone", "good", None, d, (1, 1)) for d in {digests!r}]
print(reader.pooled(samples).shape, len(list(reader.maps(samples))), "torch" in sys.modules)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "(2, 1280) 2 False"
