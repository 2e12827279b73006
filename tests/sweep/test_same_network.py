"""The same command after the network has changed: never the old numbers under the new name."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from dfkde.backbones.presence import CHECKPOINTS
from harness import provenance
from harness.features import reader
from tests.sweep.conftest import in_process, runs

OWN = """
import torch

class Own(torch.nn.Sequential):
    def forward(self, images):
        return self[1](torch.{activation}(self[0](images)))

def build():
    torch.manual_seed(0)
    return Own(torch.nn.Conv2d(3, 32, 8, stride=8), torch.nn.Identity())
"""
OPERATOR = """
import torch

@torch.library.custom_op("own::activation", mutates_args=())
def activation(images: torch.Tensor) -> torch.Tensor:
    return torch.{activation}(images)

@activation.register_fake
def _(images):
    return torch.empty_like(images)

class Activation(torch.nn.Module):
    def forward(self, images):
        return activation(images)

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 32, 8, stride=8), Activation())
"""
MODES = pytest.mark.parametrize("mode", [(), ("-m",)], ids=["job", "sweep"])


def scores(client, run):
    path = client.download_artifacts(run.info.run_id, "scores.csv")
    with open(path, newline="", encoding="utf-8") as file:
        return {row["image"]: float(row["score"]) for row in csv.DictReader(file)}


@pytest.fixture
def afresh(folder, monkeypatch):
    """Run a command in this process, which forgets the code and the network of the one before."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit may keep size and second
    monkeypatch.delitem(sys.modules, "tiny_backbone", raising=False)
    monkeypatch.setattr(reader, "_readers", {})

    def forget():
        sys.modules.pop("tiny_backbone", None)
        provenance._read.cache_clear()
        provenance._walk.cache_clear()
        reader._readers.clear()

    def run(*arguments):
        forget()
        return in_process(*arguments)

    yield run
    forget()


@pytest.mark.parametrize(
    ("mode", "source"),
    [((), OWN), (("-m",), OPERATOR)],
    ids=["forward, as a job", "operator, in a sweep"],
)
def test_a_backbone_whose_forward_changes_is_another_network(client, afresh, mode, source):
    job = (*mode, "dataset=btad", "category=01", "localizer=none")
    own = Path("tiny_backbone.py")  # found before the one of the tests
    own.write_text(source.format(activation="relu"))
    assert afresh(*job).status == 0
    own.write_text(source.format(activation="sin"))
    ended = afresh(*job)
    assert (ended.status, "skipped" in ended.out) == (0, False), ended
    ended = afresh(*job, "force=true", "features.cache=null")
    assert ended.status == 0, ended.err
    without_cache, second, first = runs(client)
    assert second.data.tags["identity"] == without_cache.data.tags["identity"]
    assert second.data.tags["code"] != first.data.tags["code"]
    if source is OWN:  # the graph tells; of an operator it holds the name
        assert second.data.tags["identity"] != first.data.tags["identity"]
    # The weights are the same; what is computed with them is not.
    assert second.data.tags["weights_digest"] == first.data.tags["weights_digest"]
    assert scores(client, second) == scores(client, without_cache)
    assert scores(client, second) != scores(client, first)
    own.write_text(source.format(activation="relu"))
    ended = afresh(*job)
    assert "skipped" in ended.out, ended
    assert first.info.run_id in ended.out


RESNET18 = (
    "dataset=btad",
    "localizer=none",
    "backbone=resnet18",
    "features.engine=torch",
    "image_size=32",
    "dataset.official=false",
)


def write_checkpoint(folder, seed):
    """Write random weights to where torch keeps those of torchvision that it has downloaded."""
    path = folder / "hub" / "checkpoints" / CHECKPOINTS["resnet18", "IMAGENET1K_V1"]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)


@pytest.mark.parametrize(
    ("mode", "category"),
    [
        pytest.param((), "02", id="another category"),
        pytest.param(("-m",), "01", id="the same again", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_that_was_replaced_is_reported_and_never_recorded_as_the_other(
    client, folder, monkeypatch, mode, category
):
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setattr(reader, "_readers", {})
    write_checkpoint(folder / "torch", seed=0)
    assert in_process(*mode, *RESNET18, "category=01", settings=()).status == 0
    write_checkpoint(folder / "torch", seed=1)
    reader._readers.clear()  # as in another process
    replaced = in_process(*mode, *RESNET18, f"category={category}", settings=())
    assert replaced.status == 1
    [message] = [line for line in replaced.out.splitlines() if "failed:" in line]
    assert "the backbone resnet18 has changed since its digests were cached: its weights" in message
    assert in_process(*mode, *RESNET18, f"category={category}", settings=()).status == 0
    finished = [run for run in runs(client) if run.info.status == "FINISHED"]
    second, first = (run.data.tags["weights_digest"] for run in finished)
    assert first[:12] in message
    assert second[:12] in message
    assert first != second


RANDOM = (
    "dataset=btad",
    "category=01",
    "localizer=none",
    "backbone=timm",
    "backbone.arguments.architecture=resnet10t",
    "backbone.weights=null",
    "features.engine=torch",
    "image_size=32",
    "dataset.official=false",
)


@MODES
def test_random_weights_have_to_be_allowed(client, mode):
    ended = in_process(*mode, *RANDOM, settings=())
    assert ended.status == 1
    assert "backbone.weights must not be null for resnet10t" in ended.err
    assert "allow_random_weights=true" in ended.err
    assert not runs(client)


def test_random_weights_are_drawn_with_the_seed_and_named_so(client):
    allowed = (*RANDOM, "allow_random_weights=true", "features.cache=null", "force=true")
    for seed, mode in ((1, ()), (1, ("-m",)), (2, ("-m",))):
        ended = in_process(*mode, *allowed, f"seed={seed}", settings=())
        assert ended.status == 0, ended.err
    other, again, first = runs(client)
    assert scores(client, first) == scores(client, again)
    assert first.data.tags["identity"] == again.data.tags["identity"]
    assert first.data.tags["weights_digest"] == again.data.tags["weights_digest"]
    assert first.data.tags["weights_digest"] != other.data.tags["weights_digest"]
    assert {run.data.tags["backbone"] for run in runs(client)} == {"resnet10t (random weights)"}
    assert "btad/01 · dfkde · resnet10t (random weights) · s1" in first.info.run_name
