"""A lazy extractor, and the memory of its digest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from harness.config import BackboneConfig, FeaturesConfig
from harness.features import FeatureReader, LazyExtractor, feature_reader, recipe
from harness.features.extractor import module_of
from harness.features.memo import remembered_digest
from tests.features.images import PLAIN

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


def test_every_field_of_a_recipe_is_in_its_key():
    settings = FeaturesConfig(device="cpu", engine="torch")
    plain = recipe.recipe_of(PLAIN, image_size=64, settings=settings)
    others = [
        replace(plain, **{field.name: ("another",) if field.name != "center_crop" else 32})
        for field in fields(plain)
    ]
    assert len({plain.key, *(other.key for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    "change", [{"resize": "float_antialias"}, {"engine": "openvino"}, {"precision": "bf16"}]
)
def test_a_translation_is_shared_by_all_who_use_the_same_graph(change):
    settings = FeaturesConfig(device="cpu", engine="torch")
    plain = recipe.recipe_of(PLAIN, image_size=64, settings=settings)
    graph = recipe.graph_of(plain)
    assert recipe.graph_of(replace(plain, **change)).key == graph.key
    for other in ({"image_size": 32}, {"batch": 1}, {"weights_digest": "other"}):
        assert recipe.graph_of(replace(plain, **other)).key != graph.key


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
samples = [Sample(Path(), "gone", "good", False, None, d, None, (1, 1)) for d in {digests!r}]
print(reader.pooled(samples).shape, len(list(reader.maps(samples))), "torch" in sys.modules)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "(2, 1280) 2 False"
