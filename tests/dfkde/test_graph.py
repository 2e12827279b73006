"""The digest of what a network computes: equal for equal computations, and for those only."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from dfkde.graph import capture, graph_digest

SHAPE = (1, 3, 16, 16)


class Net(nn.Module):
    """A convolution and what a subclass makes of it."""

    def __init__(self, seed=0, stride=1):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3, stride=stride)
        self.factor = 2.0
        self.register_buffer("unsaved", torch.ones(4, 1, 1), persistent=False)

    def forward(self, x):
        return self.act(self.conv(x) * self.factor * self.unsaved)

    def act(self, x):
        return functional.relu(x)


class Renamed(nn.Module):
    """The same computation under other names, with a tensor that nothing reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3)
        self.scale = nn.Buffer(torch.ones(4, 1, 1))
        self.unread = nn.Parameter(torch.randn(7))

    def forward(self, image):
        convolved = functional.conv2d(image, self.first.weight, self.first.bias, [1, 1], [0, 0])
        two = 1.0 + 1.0
        return torch.relu(convolved * two * self.scale)


class Sine(Net):
    def act(self, x):
        return torch.sin(x)


class Swapped(Net):
    def forward(self, x):
        return self.act(self.conv(x) * self.unsaved * self.factor)


class Constant(Net):
    """Adds a tensor that is neither parameter nor buffer."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def act(self, x):
        return functional.relu(x) + torch.tensor([self.value])


class Branch(Net):
    """Chooses by a value, inside the graph."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def act(self, x):
        return torch.cond(x.sum() > 0, torch.relu, self.other, (x,))


class Autocast(Net):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def act(self, x):
        with torch.autocast("cpu", dtype=self.dtype):
            return functional.conv2d(x, torch.ones(4, 4, 1, 1)).float()


def changed(name, value):
    net = Net()
    setattr(net, name, value)
    return net


def digest(net):
    return graph_digest(capture(net.eval().requires_grad_(False), SHAPE))


DIFFERENT = {
    "as it is": Net,
    "another activation": Sine,
    "another order": Swapped,
    "other weights": lambda: Net(seed=1),
    "another stride": lambda: Net(stride=2),
    "another number": lambda: changed("factor", 2.5),
    "a number of another type": lambda: changed("factor", 2),
    "another buffer that is not saved": lambda: changed("unsaved", torch.full((4, 1, 1), 3.0)),
    "a constant tensor": lambda: Constant(1.0),
    "another constant tensor": lambda: Constant(2.0),
    "a branch": lambda: Branch(torch.sin),
    "another branch": lambda: Branch(torch.cos),
    "bfloat16": lambda: Autocast(torch.bfloat16),
    "float16": lambda: Autocast(torch.float16),
}


def test_networks_that_compute_something_else_have_another_digest():
    digests = {name: digest(build()) for name, build in DIFFERENT.items()}
    assert len(set(digests.values())) == len(DIFFERENT), digests


def test_names_and_what_nothing_reads_have_no_part_in_it():
    assert digest(Renamed()) == digest(Net())


def test_a_parameter_counts_to_its_last_bit():
    net = Net()
    first = digest(net)
    with torch.no_grad():
        weight = net.conv.weight
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert digest(net) != first


def test_it_is_the_same_in_every_process():
    code = "from tests.dfkde.test_graph import *; print(digest(Branch(torch.sin)), digest(Net()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},  # this one has another
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [digest(Branch(torch.sin)), digest(Net())]


class Dropping(Net):
    def __init__(self, training):
        super().__init__()
        self.dropping = training

    def act(self, x):
        return functional.dropout(x, 0.5, training=self.dropping)


class Noisy(Net):
    def act(self, x):
        return torch.cond(x.sum() > 0, torch.sin, lambda y: y + torch.rand_like(y), (x,))


class Counting(Net):
    def __init__(self):
        super().__init__()
        self.count = nn.Buffer(torch.zeros(()))

    def act(self, x):
        self.count.view(1)[0].add_(1)
        return x * self.count


@pytest.mark.parametrize(
    ("net", "what"),
    [
        (Dropping(training=True), "draws random numbers: ['aten.dropout.default']"),
        (Noisy(), "draws random numbers: ['aten.rand_like.default']"),
        (Counting(), "changes its own tensors: ['count']"),
    ],
    ids=["dropout", "noise in a branch", "a counter"],
)
def test_a_network_that_gives_an_image_other_features_each_time_is_refused(net, what):
    with pytest.raises(ValueError, match=r"^backbone\.factory must .* every time, got") as error:
        capture(net.eval(), SHAPE)
    assert str(error.value).endswith(what)


def test_dropout_that_is_off_is_none():
    import timm  # the process above needs none

    capture(Dropping(training=False).eval(), SHAPE)
    capture(timm.create_model("vit_tiny_patch16_224", img_size=16).eval(), SHAPE)


def test_a_network_that_cannot_be_recorded_is_reported_in_one_line():
    class Hesitant(Net):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"^backbone\.factory must .* 16 pixels, got [^\n]*$"):
        capture(Hesitant(), SHAPE)
