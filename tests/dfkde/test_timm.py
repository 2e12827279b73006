"""Networks of timm: their feature maps, and the file that names them."""

from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

from dfkde import FeatureExtractor
from dfkde.backbones.timm import timm_model

CONF = Path(__file__).resolve().parent.parent.parent / "conf" / "backbone"


def test_the_file_of_timm_takes_the_networks_own_normalisation():
    config = yaml.safe_load((CONF / "timm.yaml").read_text())
    assert (config["mean"], config["std"], config["layers"]) == (None, None, ["output"])
    for architecture in ("resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k"):
        with torch.device("meta"):
            module = timm_model(architecture, weights=None)
        expected = timm.get_pretrained_cfg(architecture)
        found = FeatureExtractor(module, config["layers"], mean=config["mean"], std=config["std"])
        assert (found.mean, found.std) == (expected.mean, expected.std)
    assert expected.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("architecture", "img_size", "shape"),
    [
        ("resnet18", None, (512, 2, 2)),
        ("vit_tiny_patch16_224", 64, (192, 4, 4)),
        ("swin_tiny_patch4_window7_224", 64, (768, 2, 2)),
    ],
)
def test_timm_networks_give_feature_maps(architecture, img_size, shape):
    extractor = FeatureExtractor(
        timm_model(architecture, weights=None, img_size=img_size), ["output"]
    )
    with torch.inference_mode():
        pooled, maps = extractor(torch.rand(1, 3, 64, 64))
    assert maps.shape[1:] == shape
    torch.testing.assert_close(pooled, maps.mean((2, 3)))


def test_the_patches_of_swin_keep_their_channels():
    """A convolution makes them, channels first; all behind it has channels last."""
    module = timm_model("swin_tiny_patch4_window7_224", weights=None, img_size=64)
    layers = ["patch_embed.proj", "layers.0", "output"]
    extractor = FeatureExtractor(module, layers, mean=[0] * 3, std=[1] * 3)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        _, maps = extractor(images)
        patches = module.patch_embed.proj(images)
    assert maps.shape == (1, 96 + 96 + 768, 2, 2)
    torch.testing.assert_close(maps[:, :96], nn.functional.adaptive_avg_pool2d(patches, 2))
