"""A backbone for tests: one convolution with fixed weights, `tiny_backbone:build`."""

import os
import time

import torch


class Slow(torch.nn.Module):
    """Passes its input on after a pause, that a test may interrupt the job there."""

    def forward(self, images):
        time.sleep(float(os.environ.get("TINY_PAUSE", 0)))
        return images


def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 32, 8, stride=8), torch.nn.ReLU(), Slow())
