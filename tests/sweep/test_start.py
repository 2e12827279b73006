"""What the command says at once, without the libraries that take seconds to import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models import get_model_weights

from dfkde import load_backbone, localizer
from dfkde.backbones import download, presence
from dfkde.backbones.download import WeightsError
from dfkde.backbones.presence import (
    CHECKPOINTS,
    ELSEWHERE,
    LITE,
    PARTS,
    TIMM,
    check_layers,
    check_weights,
    checkpoint_folder,
)
from dfkde.choices import LOCALIZERS
from harness.checks import check_settings
from harness.config import BackboneConfig, Config, FeaturesConfig
from harness.data.synthetic import Plan, write_synthetic
from harness.features import LazyExtractor

ROOT = Path(__file__).resolve().parent.parent.parent
SLOW = {"torch", "torchvision", "timm", "mlflow", "sklearn", "scipy", "pandas", "matplotlib"}
CROP = "center_crop must be null or an integer from 1 to image_size=256"
RESNET50 = BackboneConfig(
    name="resnet50",
    factory="dfkde.backbones.torchvision:torchvision_model",
    arguments={"architecture": "resnet50"},
    weights="IMAGENET1K_V1",
    layers=["layer4"],
    mean=[0.5] * 3,
    std=[0.5] * 3,
)


def start(folder, *arguments, module="harness.run"):
    """Run `python -m harness.run` in an empty folder and without a network.

    Returns the process, its messages and the top-level packages that it imported.
    """
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TORCH_HOME": str(folder / "torch"),
        "HF_HOME": str(folder / "hub"),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    }
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # against hanging; what it must not import is what would make it slow
    )
    lines = done.stderr.splitlines()
    timed = [line for line in lines if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in timed}
    assert "harness" in imported
    return done, "\n".join(line for line in lines if line not in timed), imported


def test_help_imports_nothing_slow(tmp_path):
    done, _, imported = start(tmp_path, "--help")
    assert done.returncode == 0
    assert not (SLOW | {"numpy", "PIL"}) & imported


def test_a_warm_run_imports_neither_torch_nor_an_engine(tmp_path):
    """From the command line to the finished run, anomaly maps and pixel metrics among it."""
    root = write_synthetic(tmp_path / "mvtec", "mvtec", categories=["bottle"], plan=Plan(0.1, 64))
    command = [
        *("dataset=mvtec", "category=bottle", f"dataset.root={root}", "dataset.official=false"),
        *("backbone=efficientnet_lite0", "image_size=64", "model.params.n_components=4"),
        *("features.engine=torch", "features.device=cpu"),
    ]
    cold, said, imported = start(tmp_path, *command, "seed=1")
    assert cold.returncode == 0, said
    assert "torch" in imported
    warm, said, imported = start(tmp_path, *command, "seed=2")
    assert warm.returncode == 0, said
    assert "mlflow" in imported
    assert not {"torch", "torchvision", "timm", "onnxruntime", "openvino"} & imported


@pytest.mark.parametrize(
    ("backbone", "url", "place"),
    [
        (
            "resnet50",
            "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "torch/hub/checkpoints",
        ),
        (
            "timm",
            "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors",
            "hub/hub",
        ),
    ],
)
@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["job", "sweep"])
def test_missing_weights_are_told_before_anything_slow_is_imported(
    tmp_path, sweep, backbone, url, place
):
    categories = "category=bottle,cable,pill" if sweep else "category=bottle"
    done, message, imported = start(tmp_path, *sweep, categories, f"backbone={backbone}")
    assert done.returncode != 0
    assert not SLOW & imported
    [line] = [line for line in message.splitlines() if url in line]
    assert str(tmp_path / place) in line
    assert "backbone=efficientnet_lite0" in line
    assert not (tmp_path / "runs" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "center_crop=257",
            "center_crop must be null or an integer from 1 to image_size=256, got 257",
        ),
        ("center_crop=0", "center_crop must be null or an integer from 1 to image_size=256, got 0"),
        ("features.workers=-1", "features.workers must be an integer of at least 0, got -1"),
        (
            "features.cache_limit_gb=0",
            "features.cache_limit_gb must be null or a number above 0, got 0.0",
        ),
        ("pixel_resolution=0", "pixel_resolution must be null (native) or at least 1, got 0"),
        (
            "threshold_quantile=1.5",
            "threshold_quantile must be null, or above 0 and at most 1, got 1.5",
        ),
        ("image_size=0", "image_size must be an integer of at least 1, got 0"),
        ("category=botle", "category='botle' is not in dataset mvtec; did you mean 'bottle'?"),
        ("localizer=gradcam", "localizer must be one of ['occlusion', "),
        ("backbone.layers=[stage4]", "layers must be modules of the backbone, ['conv1', "),
    ],
)
@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["job", "sweep"])
def test_mistakes_in_the_settings_are_told_at_once(tmp_path, sweep, argument, message):
    done, said, imported = start(tmp_path, *sweep, "category=bottle", argument)
    assert done.returncode != 0
    assert message in said
    assert not SLOW & imported
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def test_a_sweep_of_many_jobs_asks_once_for_each_backbone(monkeypatch):
    asked = []
    monkeypatch.setattr(presence, "reachable", lambda url: asked.append(url) or True)
    monkeypatch.setenv("TORCH_HOME", "/nowhere")
    resnet18 = replace(RESNET50, arguments={"architecture": "resnet18"})
    configs = [
        Config(backbone=backbone, features=FeaturesConfig(cache=None), seed=seed)
        for backbone in (RESNET50, resnet18)
        for seed in range(5)
    ]
    check_settings(configs)
    assert [url.rpartition("/")[2][:8] for url in asked] == ["resnet50", "resnet18"]
    check_settings(configs, weights=False)
    assert len(asked) == 2


def test_prediction_tells_missing_weights_at_once(tmp_path):
    """And what helps: the detector takes no other backbone, so none is offered."""
    description = {**vars(RESNET50), "digest": "0" * 64}
    del description["name"]
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "detector.json").write_text(json.dumps({"format": 1, "backbone": description}))
    (tmp_path / "image.png").touch()
    done, said, imported = start(
        tmp_path, f"model={folder}", f"images={tmp_path}", module="harness.predict"
    )
    assert done.returncode == 2
    assert "https://download.pytorch.org/models/resnet50-0676ba61.pth" in said
    assert f"put that file into {tmp_path / 'torch/hub/checkpoints'}\n" in f"{said}\n"
    assert "backbone=" not in said
    assert not SLOW & imported


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
        LazyExtractor(RESNET50).check()
    file = checkpoint_folder() / "resnet50-0676ba61.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    LazyExtractor(RESNET50).check()


def test_a_remembered_backbone_needs_no_weights(offline):
    from harness.features.memo import remembered_digest

    memory = str(offline / "cache")
    remembered_digest(RESNET50, memory, compute=lambda: "ab" * 32)
    LazyExtractor(RESNET50, memory=memory).check()
    with pytest.raises(WeightsError):
        _ = LazyExtractor(RESNET50, memory=memory).module


@pytest.mark.parametrize(
    ("repository", "architecture", "told"),
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
def test_weights_of_the_hub_are_looked_for_by_name(offline, repository, architecture, told):
    if repository:
        (offline / "hub" / f"models--{repository}").mkdir(parents=True)
    try:
        check_weights(TIMM, arguments={"architecture": architecture}, weights="pretrained")
    except WeightsError as error:
        assert told
        assert f"https://huggingface.co/timm/{architecture}" in str(error)
    else:
        assert not told


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
    assert download._PATIENCE <= 1.3
