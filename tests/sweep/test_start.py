"""What the command says at once, without the libraries that take seconds to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from dfkde.backbones import presence
from harness import checks
from harness.checks import check_settings, memory_limit
from harness.compose import explained
from harness.config import BackboneConfig, Config, DatasetConfig, FeaturesConfig, ModelConfig
from harness.data.synthetic import Plan, write_synthetic
from harness.features import reader
from harness.run import _check
from harness.system.terminal import shown
from tests.saved import write_state
from tests.sweep.conftest import in_process

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


def environment(home):
    """The environment of a process without a network, which looks for weights in a folder."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "TORCH_HOME": str(home / "torch"),
        "HF_HOME": str(home / "hub"),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    }


def start(folder, *arguments, module="harness.run"):
    """Run `python -m harness.run` in an empty folder and without a network.

    Returns the process, its messages and the top-level packages that it imported.
    """
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, *map(str, arguments)],
        cwd=folder,
        env=environment(folder),
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


SERVER = """
import contextlib, io, json, os, sys
from harness.run import main
for line in sys.stdin:
    folder, sys.argv[1:], slow = json.loads(line)
    os.chdir(folder)
    status, said = 0, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as error:
            status = error.code
    imported = [name for name in slow if name in sys.modules]
    print(json.dumps([status, said.getvalue(), imported]), flush=True)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty folder where weights are looked for."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def ask(home):
    """Run one command line after another in one process, which has not imported anything slow.

    Returns the status, the messages and what of `SLOW` the process has imported.
    """
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def asked(folder, *arguments):
            process.stdin.write(json.dumps([str(folder), arguments, sorted(SLOW)]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield asked
        process.stdin.close()


def test_help_imports_nothing_slow(tmp_path):
    done, _, imported = start(tmp_path, "--help")
    assert done.returncode == 0
    assert not (SLOW | {"numpy", "PIL"}) & imported


def test_a_warm_run_imports_neither_torch_nor_an_engine(folder, monkeypatch):
    """From the command line to the finished run, anomaly maps and pixel metrics among it."""
    monkeypatch.setattr(reader, "_readers", {})  # another test may have built the network
    root = write_synthetic(folder / "mvtec", "mvtec", categories=["bottle"], plan=Plan(0.0, 32))
    command = [
        *("dataset=mvtec", "category=bottle", f"dataset.root={root}", "dataset.official=false"),
        *("backbone=efficientnet_lite0", "image_size=32", "model.params.n_components=4"),
        *("features.engine=torch", "features.device=cpu"),
    ]
    assert in_process(*command, "seed=1", settings=()).status == 0
    warm, said, imported = start(folder, *command, "seed=2")
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
def test_missing_weights_are_reported_before_anything_slow_is_imported(
    ask, home, tmp_path, sweep, backbone, url, place
):
    categories = "category=bottle,cable,pill" if sweep else "category=bottle"
    status, message, imported = ask(tmp_path, *sweep, categories, f"backbone={backbone}")
    assert status == 1
    assert not imported
    [line] = [line for line in message.splitlines() if url in line]
    assert str(home / place) in line
    assert "backbone=efficientnet_lite0" in line
    assert not (tmp_path / "runs" / "mlflow.db").exists()


MISTAKES = [
    (
        "center_crop=257",
        "center_crop must be null or an integer from 1 to image_size=256, got 257",
    ),
    ("center_crop=0", "center_crop must be null or an integer from 1 to image_size=256, got 0"),
    ("features.workers=-1", "features.workers must be an integer from 0 to 1024, got -1"),
    (
        "features.workers=100000",
        "features.workers must be an integer from 0 to 1024, got 100000",
    ),
    ("seed=-1", "seed must be an integer from 0 to 4294967295, got -1"),
    ("seed=4294967296", "seed must be an integer from 0 to 4294967295, got 4294967296"),
    ("n_train=0", "n_train must be null (all) or at least 1, got 0"),
    (
        "train_contamination=1.5",
        "train_contamination must be at least 0 and below 1, got 1.5",
    ),
    ("features.cache=/dev/null", "features.cache must be null or a folder, got '/dev/null'"),
    ("image_size=1000000", "image_size must be such that a batch fits into memory: with"),
    (
        "pixel_resolution=10000000",
        "pixel_resolution must be such that an anomaly map fits into memory: 900,000.0 GB are",
    ),
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
]


@pytest.mark.parametrize(
    ("mode", "argument", "message"),
    # A sweep has all checks of a job, at another place.
    [
        *(((), *mistake) for mistake in MISTAKES),
        *((("-m",), *mistake) for mistake in MISTAKES[::4]),
    ],
)
def test_mistakes_in_the_settings_are_reported_at_once(ask, tmp_path, mode, argument, message):
    given = [] if argument.startswith("category=") else ["category=bottle"]
    status, said, imported = ask(tmp_path, *mode, *given, argument)
    assert status == 1
    assert message in said
    assert not imported
    assert not (tmp_path / "runs" / "mlflow.db").exists()


FP32 = FeaturesConfig(engine="torch", device="cpu", workers=3, cache=None)
BF16 = replace(FP32, precision="bf16")
LITE0 = BackboneConfig(
    name="lite0",
    factory="dfkde.backbones.efficientnet_lite:efficientnet_lite",
    arguments={"variant": 0},
    layers=["bn2"],
    mean=[0.5] * 3,
    std=[0.5] * 3,
)
STEM = replace(LITE0, layers=["bn1"])
CUSTOM = replace(LITE0, factory="tests.tiny:build", layers=["features"])


def sizes(**changes):
    return replace(CONFIG, **{"backbone": LITE0, "features": FP32} | changes)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        # Nine numbers of 4 bytes for each pixel of 3 workers x 4 images.
        ({"image_size": 100, "backbone": CUSTOM}, 3 * 9 * 4 * 4 * 100**2),
        ({"image_size": 100, "center_crop": 50, "backbone": CUSTOM}, 3 * 9 * 4 * 4 * 50**2),
        # Of networks that are known, 3 of the image and the activations, in one of the workers.
        ({"image_size": 100}, (2 * 9 + 3 + 28) * 4 * 4 * 100**2),
        ({"image_size": 100, "backbone": RESNET50}, (2 * 9 + 3 + 16) * 4 * 4 * 100**2),
        ({"image_size": 100, "features": BF16}, (2 * 9 + 3 + 14) * 4 * 4 * 100**2),
        # What is not computed is not known.
        ({"image_size": 100, "backbone": STEM}, 3 * 9 * 4 * 4 * 100**2),
        # Three workers' resized images, 1 byte a number.
        ({"image_size": 1000, "center_crop": 10}, 3 * 3 * 1000**2),
        # A map of float64 and a mask of bool.
        ({"image_size": 1, "pixel_resolution": 1000}, 9 * 1000**2),
    ],
)
def test_what_certainly_takes_more_than_the_memory_is_refused(monkeypatch, settings, needed):
    monkeypatch.setattr(presence, "reachable", lambda url: True)
    monkeypatch.setattr(checks, "memory_limit", lambda: needed)
    check_settings([sizes(**settings)])
    monkeypatch.setattr(checks, "memory_limit", lambda: needed - 1)
    with pytest.raises(ValueError, match=r"^(image_size|pixel_resolution) must .* memory"):
        check_settings([sizes(**settings)])
    check_settings([sizes(**settings)], weights=False)  # another machine's memory


@pytest.mark.parametrize(
    ("backbone", "layer", "activations"),
    [
        *(
            (replace(RESNET50, arguments={"architecture": name}), "conv1", 16)
            for name in sorted({architecture for architecture, _ in presence.CHECKPOINTS})
        ),
        *(
            (replace(LITE0, arguments={"variant": number}), "blocks.1.0.conv_pw", 4 + 24)
            for number in (0, 1, 2)
        ),
    ],
    ids=lambda value: str(getattr(value, "arguments", "")),
)
def test_the_activations_of_known_networks_are_what_their_layers_compute(
    backbone, layer, activations
):
    sizes_of = []
    with torch.device("meta"):  # sizes without numbers
        network, image = built(backbone), torch.zeros(1, 3, 64, 64)
    network.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: sizes_of.extend([inputs[0].numel(), output.numel()])
    )
    network(image)
    taken = sizes_of[1:] if layer == "conv1" else sizes_of  # the image itself counts apart
    assert sum(taken) == activations * 64**2 == checks._activations(backbone) * 64**2


def built(backbone):
    if backbone.factory == presence.TORCHVISION:
        return torchvision.models.get_model(backbone.arguments["architecture"]).eval()
    return timm.create_model(f"tf_efficientnet_lite{backbone.arguments['variant']}").eval()


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_a_job_whose_one_worker_would_be_killed_is_refused(monkeypatch, name):
    """Nine numbers for each pixel would fit into these 24 GiB."""
    monkeypatch.setattr(checks, "memory_limit", lambda: 24 * 2**30)
    monkeypatch.setattr(presence, "reachable", lambda url: True)
    features = replace(FP32, engine="openvino", workers=1)
    given = {"resnet50": RESNET50, "efficientnet_lite0": LITE0}[name]
    with pytest.raises(ValueError, match=r"^image_size must .* got 20000$"):
        check_settings([sizes(image_size=20_000, backbone=given, features=features)])


def test_without_anomaly_maps_their_size_does_not_matter(monkeypatch):
    monkeypatch.setattr(checks, "memory_limit", lambda: 10**6)
    check_settings([sizes(image_size=1, pixel_resolution=10**6, localizer="none")])


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, float("inf")),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    5 kB\nHugePages_Total: 0\n"}, 5120),
        ({"proc/meminfo": "MemAvailable: 5 kB\nSwapFree: 2 kB\n"}, 7 * 1024),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, float("inf")),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "7\n"}, 7),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "8\n"}, 8),
        # A container that sees its own groups only.
        ({"proc/self/cgroup": "0::/x/y\n", "sys/fs/cgroup/memory.max": "8\n"}, 8),
        (
            {
                "proc/self/cgroup": "5:cpu:/a\n4:memory,x:/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "proc/meminfo": "MemAvailable: 1 kB\nSwapFree: 1 kB\n",
            },
            9 + 1024,
        ),
        ({"proc/self/cgroup": "nonsense\n", "proc/meminfo": "MemAvailable 5\n"}, float("inf")),
    ],
)
def test_the_memory_is_the_least_that_anyone_allows(tmp_path, files, limit):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory_limit(tmp_path) == limit


def test_the_memory_of_a_process_may_be_limited_by_its_shell(tmp_path):
    code = "from harness.checks import memory_limit; print(memory_limit())"
    command = f"ulimit -v 3000000; {sys.executable} -c '{code}'"
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 0 < float(done.stdout) <= 3_000_000 * 1024


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
    write_state(folder, {"format": 2, "backbone": description})
    (tmp_path / "image.png").touch()
    done, said, imported = start(
        tmp_path, f"model={folder}", f"images={tmp_path}", module="harness.predict"
    )
    assert done.returncode == 2
    assert "https://download.pytorch.org/models/resnet50-0676ba61.pth" in said
    assert f"put that file into {tmp_path / 'torch/hub/checkpoints'}\n" in f"{said}\n"
    assert "backbone=" not in said
    assert not SLOW & imported


def test_a_category_that_only_looks_the_same_is_reported_apart():
    dataset = replace(CONFIG.dataset, categories=["u\u0308ber"])
    with pytest.raises(ValueError, match=r"\(which is '\\xfcber', and not 'u\\u0308ber'\)"):
        _check(replace(CONFIG, dataset=dataset, category="\u00fcber"))


def test_categories_of_a_file_are_named_in_a_line():
    dataset = replace(CONFIG.dataset, categories=["bolt\x1b[2J\nerror: x", "\udcff"])
    with pytest.raises(ValueError, match="is not in dataset") as error:
        _check(replace(CONFIG, dataset=dataset))
    assert "Choose from: bolt\\x1b[2J error: x, \\udcff" in shown(explained(error.value))
