"""A backbone small enough for tests: seeded, 24 channels on an 8 x 8 grid for 64-pixel images."""

from collections import OrderedDict

import torch
from torch import nn


def build() -> nn.Module:
    """Return the backbone; its feature map is the output of `features`."""
    features = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=4, padding=2),
        nn.Tanh(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in features.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return nn.Sequential(OrderedDict(features=features))
