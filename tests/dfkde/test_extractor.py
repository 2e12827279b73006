"""Features of a small network against its own layers, and its identity."""

import pytest
import torch
from torch import nn

from dfkde import FeatureExtractor

HALF = [0.5] * 3


def network(*, stride=2, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 3, stride=stride, padding=1),
        nn.AdaptiveAvgPool2d(1),
    )


IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_one_layer_is_the_layers_output_and_its_mean():
    module = network()
    pooled, maps = FeatureExtractor(module, ["3"], mean=[0.1, 0.2, 0.3], std=[1, 2, 3])(IMAGES)
    scaled = (IMAGES - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [1.0, 2, 3]
    ).view(3, 1, 1)
    expected = module[:4](scaled)
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(pooled, module[:5](scaled).flatten(1))
    torch.testing.assert_close(pooled, maps.mean((2, 3)))


def test_finer_layers_are_pooled_to_the_coarsest():
    module = network()
    pooled, maps = FeatureExtractor(module, ["3", "1"], mean=HALF, std=HALF)(IMAGES)
    fine = module[:2]((IMAGES - 0.5) / 0.5)
    assert maps.shape == (3, 9, 4, 4)
    torch.testing.assert_close(maps[:, 5:], nn.functional.avg_pool2d(fine, 2))
    torch.testing.assert_close(pooled[:, 5:], fine.mean((2, 3)))


def test_a_layer_before_an_activation_in_place_is_kept_as_it_was():
    _, maps = FeatureExtractor(network(), ["1"], mean=HALF, std=HALF)(IMAGES)
    assert (maps < 0).any()


def test_output_is_what_the_backbone_returns():
    module = network()[:4]
    _, maps = FeatureExtractor(module, ["output"], mean=HALF, std=HALF)(IMAGES)
    torch.testing.assert_close(maps, module((IMAGES - 0.5) / 0.5))


class Tokens(nn.Module):
    """Gives a feature map as a vision transformer does: a class token, then the patches."""

    num_prefix_tokens = 1

    def forward(self, images):
        patches = images.flatten(2).transpose(1, 2)
        return torch.cat([patches.mean(1, keepdim=True) + 9, patches], dim=1)


class ChannelsLast(nn.Module):
    output_fmt = "NHWC"

    def forward(self, images):
        return images.permute(0, 2, 3, 1)


@pytest.mark.parametrize("module", [Tokens(), ChannelsLast()])
def test_other_forms_of_feature_maps(module):
    _, maps = FeatureExtractor(module, ["output"], mean=[0] * 3, std=[1] * 3)(IMAGES)
    torch.testing.assert_close(maps, IMAGES)


class Mixed(nn.Module):
    """A transformer of windows: patches by a convolution, then channels last."""

    output_fmt = "NHWC"

    def __init__(self, channels):
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, stride=4)
        self.act = nn.ReLU()
        self.norm = nn.LayerNorm(channels)

    def forward(self, images):
        return self.norm(self.act(self.proj(images)).permute(0, 2, 3, 1))


# The last has as many channels as rows and columns: shapes alone would not do.
@pytest.mark.parametrize(("channels", "size"), [(7, (16, 16)), (7, (16, 24)), (4, (16, 16))])
def test_channels_are_where_the_layer_has_them(channels, size):
    module, images = Mixed(channels), torch.rand(2, 3, *size)
    extractor = FeatureExtractor(module, ["proj", "norm", "output"], mean=[0] * 3, std=[1] * 3)
    _, maps = extractor(images)
    first = module.proj(images)
    last = module(images).permute(0, 3, 1, 2)
    torch.testing.assert_close(maps, torch.cat([first, last, last], dim=1))


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_a_layer_between_keeps_channels_first_by_its_proportions(size):
    module, images = Mixed(7), torch.rand(2, 3, *size)
    _, maps = FeatureExtractor(module, ["act"], mean=[0] * 3, std=[1] * 3)(images)
    torch.testing.assert_close(maps, module.act(module.proj(images)))


def test_a_layer_that_is_not_run_is_named():
    module = network()
    module[4].unused = nn.Identity()
    extractor = FeatureExtractor(module, ["4.unused"], mean=HALF, std=HALF)
    with pytest.raises(ValueError, match=r"modules that the backbone runs, got '4\.unused'"):
        extractor(IMAGES)


def test_sizes_that_do_not_divide_are_pooled_to_the_coarsest():
    """19 positions to 10: windows from floor(19 i / 10) to ceil(19 (i + 1) / 10), by their mean."""
    images = torch.rand(2, 3, 19, 19)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2, ceil_mode=True))
    pooled, maps = FeatureExtractor(module, ["0", "1"], mean=[0] * 3, std=[1] * 3)(images)
    fine = module[0](images).double()
    windows = [slice(19 * i // 10, -(-19 * (i + 1) // 10)) for i in range(10)]
    expected = [[fine[:, :, y, x].mean((2, 3)) for x in windows] for y in windows]
    expected = torch.stack([torch.stack(row, dim=-1) for row in expected], dim=-2)
    torch.testing.assert_close(maps[:, :4].double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(maps[:, 4:], module[1](module[0](images)))
    # The pooled feature is the mean of what the maps show, not of the finer ones.
    torch.testing.assert_close(pooled, maps.mean((2, 3)))


def test_a_layer_without_positions_is_an_error():
    module = nn.Sequential(nn.Flatten())
    extractor = FeatureExtractor(module, ["0"], mean=HALF, std=HALF)
    with pytest.raises(ValueError, match=r"'0' must give a feature map .* got \(3, 768\)"):
        extractor(IMAGES)


def test_unknown_layer_lists_the_choices():
    with pytest.raises(ValueError, match=r"\['0', '1', '2', '3', '4', 'output'\] .* got 'layer4'"):
        FeatureExtractor(network(), ["layer4"], mean=HALF, std=HALF)
    nested = nn.ModuleDict({"layer4": nn.ModuleDict({"conv1": nn.Identity()})})
    with pytest.raises(ValueError, match=r"near 'layer4.conv2': \['layer4.conv1'"):
        FeatureExtractor(nested, ["layer4.conv2"], mean=HALF, std=HALF)


@pytest.mark.parametrize("layers", [[], ["3", "3"]])
def test_layers_must_be_some_and_different(layers):
    with pytest.raises(ValueError, match="layers must be at least one and different"):
        FeatureExtractor(network(), layers, mean=HALF, std=HALF)


def test_normalisation_is_the_backbones_own_by_default():
    module = network()
    with pytest.raises(ValueError, match="mean must be given"):
        FeatureExtractor(module, ["3"])
    module.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    extractor = FeatureExtractor(module, ["3"])
    assert (extractor.mean, extractor.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with pytest.raises(ValueError, match=r"std must hold 3 numbers, one per channel, got \[1\]"):
        FeatureExtractor(module, ["3"], std=[1])


def test_backbone_is_frozen_and_in_evaluation_mode():
    extractor = FeatureExtractor(network().train(), ["3"], mean=HALF, std=HALF)
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    first, second = extractor(IMAGES)[0], extractor(IMAGES[:1])[0]
    torch.testing.assert_close(first[:1], second)


def digest(module):
    return FeatureExtractor(module, ["3"], mean=HALF, std=HALF).digest


def test_digest_depends_on_tensors_and_architecture():
    first = digest(network())
    assert len(first) == 64
    assert first == digest(network())
    assert first != digest(network(seed=1))
    # Equal tensors, another stride.
    assert first != digest(network(stride=1))


def test_digest_sees_the_smallest_change():
    module = network()
    before = digest(module)
    weight = module[0].weight.data
    weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert digest(module) != before


def test_digest_takes_every_type():
    module = network().to(torch.bfloat16)
    assert digest(module) != digest(network())
