"""What the command says at once, without the libraries that take seconds to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dfkde.backbones import presence
from harness.checks import check_settings
from harness.config import BackboneConfig, Config, DatasetConfig, FeaturesConfig, ModelConfig
from harness.data.synthetic import Plan, write_synthetic
from harness.run import JobError, _check

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

CONFIG = Config(
    dataset=DatasetConfig("größe 日本", "Parts", "mvtec", ["bolt"]),
    category="bolt",
    backbone=RESNET50,
    model=ModelConfig("dfkde", "dfkde.density:DFKDE"),
    features=FeaturesConfig(cache=None),
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
        (
            "backbone.weights=null",
            "backbone.weights must not be null for resnet50, whose weights would be random",
        ),
        ("features.engine=tensorrt", "engine must be one of auto, torch, onnxruntime, openvino"),
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
        replace(CONFIG, backbone=backbone, seed=seed)
        for backbone in (RESNET50, resnet18)
        for seed in range(5)
    ]
    check_settings(configs)
    assert [url.rpartition("/")[2][:8] for url in asked] == ["resnet50", "resnet18"]
    check_settings(configs, weights=False)
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["", "a\x1b[2J", "a\nb", "\udcff", "a" * 101])
@pytest.mark.parametrize("group", ["dataset", "category", "model", "backbone"])
def test_names_that_no_store_holds_are_refused(group, name):
    given = getattr(CONFIG, group)
    value = name if group == "category" else replace(given, name=name)
    key = group if group == "category" else f"{group}.name"
    with pytest.raises(ValueError, match=rf"^{key} must be 1 to 100 characters .*, got '"):
        check_settings([replace(CONFIG, **{group: value})], weights=False)


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


def test_categories_of_a_file_are_named_in_a_line():
    """Hydra prints the error as it is."""
    dataset = replace(CONFIG.dataset, categories=["bolt\x1b[2J\nerror: x", "\udcff"])
    with pytest.raises(JobError) as error:
        _check(replace(CONFIG, dataset=dataset))
    assert "Choose from: bolt\\x1b[2J\\nerror: x, \\udcff" in str(error.value)
    assert str(error.value).isprintable()
