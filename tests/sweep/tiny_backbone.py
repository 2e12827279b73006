"""A backbone for tests: one convolution with fixed weights, `tiny_backbone:build`."""

import torch


def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 32, 8, stride=8), torch.nn.ReLU())
