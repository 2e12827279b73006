"""What is known of backbones and weights without importing torch, against the libraries' own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models import get_model_weights

from dfkde import load_backbone, localizer
from dfkde.backbones import presence
from dfkde.backbones.presence import (
    CHECKPOINTS,
    ELSEWHERE,
    LITE,
    PARTS,
    TIMM,
    WeightsError,
    check_layers,
    check_weights,
    checkpoint_folder,
)
from dfkde.registry import LOCALIZERS
from harness.features.extractor import DigestCache, Digests, LazyExtractor
from tests.sweep.test_start import RESNET50

SHAPE = (1, 3, 256, 256)

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_parts_are_the_networks_own():
    for factory, arguments in [
        *((RESNET50.factory, {"architecture": name}) for name, _ in CHECKPOINTS),
        (LITE, {"variant": 0}),
    ]:
        weights = None
        with torch.device("meta") if factory != LITE else nullcontext():
            module = load_backbone(factory, arguments=arguments, weights=weights)
        assert [name for name, _ in module.named_children()] == PARTS[factory]
    for layer in ("layer4", "layer4.2.conv3", "output"):
        check_layers(RESNET50.factory, [layer], arguments={"architecture": "resnet50"})
    check_layers(RESNET50.factory, ["features"], arguments={"architecture": "vgg16"})
    check_layers("own:build", ["features"], arguments={})


def test_the_localizers_are_those_that_can_be_built():
    found = {name: localizer(name) for name in LOCALIZERS}
    assert [name for name, one in found.items() if one is None] == ["none"]
    assert {type(one).__name__ for one in found.values() if one} == {
        "Occlusion",
        "PatchDensity",
        "Uniform",
    }


def test_the_repositories_are_timms_own():
    """Every name with a tag: its weights lie in a repository of that name, or it is excepted."""
    elsewhere = {
        name
        for name in timm.list_pretrained()
        if f"{timm.get_pretrained_cfg(name).hf_hub_id}".partition("/")[2] != name
    }
    assert {name for name in elsewhere if not ELSEWHERE.match(name)} == set()


def test_the_files_are_torchvisions_own():
    """All weights of the architectures that `conf/backbone` has, by torchvision's own list."""
    expected = {
        (architecture, name): f"{weights.url}"
        for architecture in {architecture for architecture, _ in CHECKPOINTS}
        for name, weights in get_model_weights(architecture).__members__.items()
        if name != "DEFAULT"
    }
    found = {
        key: f"https://download.pytorch.org/models/{name}" for key, name in CHECKPOINTS.items()
    }
    assert found == expected
    used = {
        re.search(r"architecture: (\S+)", text)[1]
        for path in (ROOT / "conf" / "backbone").glob("*.yaml")
        if "torchvision:torchvision_model" in (text := path.read_text())
    }
    assert used == {architecture for architecture, _ in CHECKPOINTS}


@pytest.mark.parametrize(
    "variables", [{}, {"TORCH_HOME": "~/mine"}, {"XDG_CACHE_HOME": "/x"}, {"TORCH_HOME": "/y"}]
)
def test_the_folder_is_torchs_own(monkeypatch, variables):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert checkpoint_folder() == Path(torch.hub.get_dir()) / "checkpoints"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(presence, "reachable", lambda url: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_weights_that_are_there_need_no_network(offline):
    with pytest.raises(WeightsError):
        LazyExtractor(RESNET50).check(SHAPE)
    file = checkpoint_folder() / "resnet50-0676ba61.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    LazyExtractor(RESNET50).check(SHAPE)


def test_a_backbone_whose_digests_are_cached_needs_no_weights(offline):
    cache = str(offline / "cache")
    DigestCache(RESNET50, cache).save(SHAPE, Digests("ab" * 32, "cd" * 32))
    LazyExtractor(RESNET50, cache=cache).check(SHAPE)
    with pytest.raises(WeightsError):
        LazyExtractor(RESNET50, cache=cache).check((1, 3, 64, 64))
    LazyExtractor(RESNET50).check(None)  # another machine computes
    with pytest.raises(WeightsError):
        _ = LazyExtractor(RESNET50, cache=cache).module


@pytest.mark.parametrize(
    ("repository", "architecture", "is_named"),
    [
        (None, "resnet18.a1_in1k", True),
        ("timm--resnet34.a1_in1k", "resnet18.a1_in1k", True),
        ("bert-base-uncased", "resnet18.a1_in1k", True),
        ("timm--resnet18.a1_in1k", "resnet18.a1_in1k", False),
        ("munehiro-k--cspnext_l.rsb_a1_in1k", "cspnext_l.rsb_a1_in1k", False),
        (None, "resnet18", True),
        ("timm--resnet18d.ra2_in1k", "resnet18", True),
        ("timm--resnet18.a1_in1k", "resnet18", False),
        (None, "gcvit_base.in1k", False),
        (None, "vitamin_small_224.datacomp1b_clip", False),
    ],
)
def test_weights_of_the_hub_are_looked_for_by_name(offline, repository, architecture, is_named):
    if repository:
        snapshot = offline / "hub" / f"models--{repository}" / "snapshots" / "0"
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").touch()
    try:
        check_weights(TIMM, arguments={"architecture": architecture}, weights="pretrained")
    except WeightsError as error:
        assert is_named
        assert f"https://huggingface.co/timm/{architecture}" in str(error)
    else:
        assert not is_named


def test_the_hub_may_be_another(tmp_path):
    """$HF_ENDPOINT is read by the hub's library once, when it is imported."""
    code = """
from dfkde.backbones.presence import check_weights
try:
    arguments = {"architecture": "resnet18.a1_in1k"}
    check_weights("dfkde.backbones.timm:timm_model", arguments=arguments, weights="pretrained")
except ValueError as error:
    print(error)
"""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9/hub",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "http://127.0.0.1:9/hub/timm/resnet18.a1_in1k/resolve/main/model.saf" in done.stdout


@pytest.mark.parametrize(
    ("factory", "architecture", "weights"),
    [
        (RESNET50.factory, "resnet50", "path/to.pth"),
        (RESNET50.factory, "vgg16", "IMAGENET1K_V1"),
        (TIMM, "resnet18.a1_in1k", "path/to.safetensors"),
        (TIMM, "resnet18.a1_in1k", None),
        ("own:build", "resnet50", "IMAGENET1K_V1"),
    ],
)
def test_of_other_weights_nothing_is_said(offline, factory, architecture, weights):
    check_weights(factory, arguments={"architecture": architecture}, weights=weights)


def test_time_for_the_network_leaves_time_to_start():
    """The whole must take less than two seconds; starting takes about half of one."""
    assert presence._PATIENCE <= 1.3
