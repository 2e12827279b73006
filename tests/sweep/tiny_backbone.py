"""A backbone for tests: one convolution with fixed weights, `tiny_backbone:build`."""

import json
import os
import time

import torch


# An operation of its own: an engine that captures the network as a graph keeps it, whereas plain
# Python in `forward` would pause once, while the network is captured.
@torch.library.custom_op("tiny_backbone::pause", mutates_args=())
def pause(images: torch.Tensor) -> torch.Tensor:
    """Pass its input on after a pause, that a test may interrupt the job there."""
    time.sleep(float(os.environ.get("TINY_PAUSE", 0)))
    return images.clone()


@pause.register_fake
def _(images: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(images)


class Slow(torch.nn.ReLU):
    """Sets what is negative to zero, slowly."""

    def forward(self, images):
        return pause(super().forward(images))


def swallow():
    """Swallow whatever is raised, for a minute, as a careless library would."""
    with open("stubborn", "w") as file:
        file.write(str(os.getpid()))
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            time.sleep(1)
        except BaseException:
            continue


def build():
    """Return the network; note what its process sees where a test asks for it."""
    if "TINY_SEEN" in os.environ:
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_CPUS_PER_TASK")
        with open(os.environ["TINY_SEEN"], "a") as file:
            file.write(json.dumps({name: os.environ.get(name) for name in names}) + "\n")
    if "TINY_STUBBORN" in os.environ:
        swallow()
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 32, 8, stride=8), Slow())
