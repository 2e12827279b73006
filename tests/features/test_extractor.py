"""A lazy extractor, and the cache of its digests."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from dataclasses import fields, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision

from dfkde import load_backbone
from dfkde.backbones.presence import CHECKPOINTS
from harness import provenance
from harness.config import BackboneConfig, FeaturesConfig
from harness.features import extractor, reader, spec
from harness.features.extractor import DigestCache, Digests, LazyExtractor
from harness.features.reader import FeatureReader, feature_reader
from tests.features.images import PLAIN

LITE = BackboneConfig(
    name="efficientnet_lite0",
    factory="dfkde.backbones.efficientnet_lite:efficientnet_lite",
    arguments={"variant": 0},
    layers=["bn2"],
    mean=[0.5, 0.5, 0.5],
    std=[0.5, 0.5, 0.5],
)
OWN = BackboneConfig(
    name="own", factory="my_networks:build", layers=["a"], mean=[0.5] * 3, std=[0.5] * 3
)
RANDOM = BackboneConfig(
    name="random",
    factory="dfkde.backbones.torchvision:torchvision_model",
    arguments={"architecture": "resnet18"},
    layers=["layer4"],
    mean=[0.5] * 3,
    std=[0.5] * 3,
)


SHAPE = (1, 3, 32, 32)
DIGESTS = Digests("0" * 64, "1" * 64)


def test_the_digests_of_pinned_weights_are_kept_for_each_shape(tmp_path):
    DigestCache(LITE, str(tmp_path)).save(SHAPE, DIGESTS)
    assert DigestCache(LITE, str(tmp_path)).find(SHAPE) == (DIGESTS, True)
    assert DigestCache(LITE, str(tmp_path)).find((4, 3, 32, 32)) is None
    for change in ({"layers": ["bn1"]}, {"mean": [0.4] * 3}, {"arguments": {"variant": 1}}):
        assert DigestCache(replace(LITE, **change), str(tmp_path)).find(SHAPE) is None


@pytest.mark.parametrize("backbone", [OWN, RANDOM], ids=["own", "random"])
def test_digests_that_may_change_are_not_kept(tmp_path, backbone):
    DigestCache(backbone, str(tmp_path)).save(SHAPE, DIGESTS)
    assert DigestCache(backbone, str(tmp_path)).find(SHAPE) is None


@pytest.mark.parametrize("written", ["{folder}/weights.pth", "~/weights.pth"])
def test_another_state_dict_has_other_digests(tmp_path, monkeypatch, written):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights = tmp_path / "weights.pth"
    backbone = replace(RANDOM, weights=written.format(folder=tmp_path))
    weights.write_bytes(b"one")
    DigestCache(backbone, str(tmp_path)).save(SHAPE, DIGESTS)
    assert DigestCache(backbone, str(tmp_path)).find(SHAPE) == (DIGESTS, True)
    weights.write_bytes(b"three")
    assert DigestCache(backbone, str(tmp_path)).find(SHAPE) is None


def test_a_file_that_changes_while_its_network_is_built_does_not_get_its_digests(tmp_path):
    weights = tmp_path / "weights.pth"
    backbone = replace(RANDOM, weights=str(weights))
    weights.write_bytes(b"one")
    cache = DigestCache(backbone, str(tmp_path))
    assert cache.find(SHAPE) is None
    weights.write_bytes(b"three")
    cache.save(SHAPE, DIGESTS)
    assert DigestCache(backbone, str(tmp_path)).find(SHAPE) is None


def test_of_a_checkpoint_that_was_replaced_the_network_has_to_be_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    backbone = replace(RANDOM, weights="IMAGENET1K_V1")
    file = tmp_path / "hub" / "checkpoints" / CHECKPOINTS["resnet18", "IMAGENET1K_V1"]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one")
    DigestCache(backbone, str(tmp_path)).save(SHAPE, DIGESTS)
    assert DigestCache(backbone, str(tmp_path)).find(SHAPE) == (DIGESTS, True)
    file.write_bytes(b"three")
    assert DigestCache(backbone, str(tmp_path)).find(SHAPE) == (DIGESTS, False)
    file.unlink()  # features of that network may be all that is wanted
    assert DigestCache(backbone, str(tmp_path)).find(SHAPE) == (DIGESTS, True)


@pytest.mark.parametrize("harm", ["", "{}", "{'", "[]", "flip", "move", "pipe", "folder", "deep"])
def test_damaged_digests_are_computed_again(tmp_path, harm):
    cache = DigestCache(LITE, str(tmp_path))
    cache.save(SHAPE, DIGESTS)
    place = next(tmp_path.rglob("*.json"))
    text = place.read_text()
    place.unlink()
    if harm == "pipe":
        os.mkfifo(place)
    elif harm == "folder":
        place.mkdir()
    elif harm == "move":
        DigestCache(LITE, str(tmp_path)).save((1, 3, 8, 8), DIGESTS)
        next(tmp_path.rglob("*.json")).rename(place)
    elif harm == "flip":
        place.write_text(text.replace(DIGESTS.weights, "1" + DIGESTS.weights[1:]))
    else:
        place.write_text("[" * 100_000 if harm == "deep" else harm)
    with pytest.warns(
        UserWarning, match=r"^the backbone's digests are computed again: .*json"
    ) as w:
        assert [cache.find(SHAPE), cache.find(SHAPE)] == [None, None]
    assert len(w) == 1
    if harm == "folder":
        with pytest.warns(UserWarning, match="cannot keep everything"):
            cache.save(SHAPE, DIGESTS)
        return
    cache.save(SHAPE, DIGESTS)
    assert cache.find(SHAPE) == (DIGESTS, True)


def test_digests_are_written_to_no_folder_behind_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "backbones").symlink_to(tmp_path / "elsewhere")
    cache = DigestCache(LITE, str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="A link, which the cache does not follow"):
        cache.save(SHAPE, DIGESTS)
    assert not list((tmp_path / "elsewhere").iterdir())


def build_small():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, stride=4), torch.nn.ReLU())


def pinned(tmp_path):
    """A network whose weights are in a file: torchvision's smallest, filled at random."""
    weights = tmp_path / "weights.pth"
    torch.save(squeezenet(seed=0), weights)
    return replace(
        RANDOM,
        arguments={"architecture": "squeezenet1_1"},
        weights=str(weights),
        layers=["features"],
    )


def squeezenet(*, seed):
    torch.manual_seed(seed)
    return torchvision.models.squeezenet1_1(weights=None).state_dict()


def test_a_network_is_compared_with_its_cached_digests_whenever_it_is_built(tmp_path):
    backbone = pinned(tmp_path)
    first = LazyExtractor(backbone, cache=str(tmp_path)).digests(SHAPE)
    warm = LazyExtractor(backbone, cache=str(tmp_path))
    assert warm.digests(SHAPE) == first
    assert "module" not in vars(warm)
    assert warm.program(SHAPE) is warm.module.program(SHAPE)
    assert not warm.outdated


def exchange(weights, content):
    """Change a file so that neither its size nor its times tell."""
    status = weights.stat()
    torch.save(content, weights)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_another_network_than_the_cached_one_is_an_error_once(tmp_path, monkeypatch):
    backbone = pinned(tmp_path)
    # As for weights that torch downloads, whose file is not looked at.
    monkeypatch.setattr(extractor, "_state", lambda file: (0, 0, 0))
    first = LazyExtractor(backbone, cache=str(tmp_path)).digests(SHAPE)
    exchange(Path(backbone.weights), squeezenet(seed=1))
    warm = LazyExtractor(backbone, cache=str(tmp_path))
    assert warm.digests(SHAPE) == first
    with pytest.raises(ValueError, match=r"random has changed since .*: its weights had") as caught:
        warm.program(SHAPE)
    assert first.weights[:12] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert warm.outdated
    again = LazyExtractor(backbone, cache=str(tmp_path))
    again.program(SHAPE)
    assert again.digests(SHAPE).weights != first.weights
    assert again.digests(SHAPE).weights[:12] in str(caught.value)


def test_a_reader_whose_network_has_changed_serves_no_other_job(tmp_path, samples, monkeypatch):
    backbone = pinned(tmp_path)
    monkeypatch.setattr(extractor, "_state", lambda file: (0, 0, 0))
    settings = FeaturesConfig(engine="torch", device="cpu", cache=str(tmp_path / "cache"))
    first = feature_reader(backbone, settings, image_size=64)
    first.pooled(samples[:1])
    exchange(Path(backbone.weights), squeezenet(seed=1))
    reader._readers.clear()  # as in another process
    stale = feature_reader(backbone, settings, image_size=64)
    assert stale.spec == first.spec
    stale.pooled(samples[:1])  # what the first network gave, and what the spec says
    with pytest.raises(ValueError, match="has changed since its digests were cached"):
        stale.pooled(samples[:2])
    fresh = feature_reader(backbone, settings, image_size=64)
    assert fresh.spec.weights_digest != first.spec.weights_digest
    assert (fresh.pooled(samples[:1]) != first.pooled(samples[:1])).any()


def test_where_digests_cannot_be_replaced_their_file_is_named(tmp_path, samples, monkeypatch):
    backbone = pinned(tmp_path)
    monkeypatch.setattr(extractor, "_state", lambda file: (0, 0, 0))
    cache = str(tmp_path / "cache")
    LazyExtractor(backbone, cache=cache).digests(SHAPE)
    exchange(Path(backbone.weights), squeezenet(seed=1))
    [kept] = (tmp_path / "cache" / "backbones").iterdir()
    changed = LazyExtractor(backbone, cache=cache)
    changed.digests(SHAPE)
    monkeypatch.setattr(extractor, "write_json", fail_to_write)
    with (
        pytest.warns(UserWarning, match="cannot keep everything"),
        pytest.raises(ValueError, match=rf"; '{kept}' must be removed"),
    ):
        changed.program(SHAPE)


def fail_to_write(path, *_, **__):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_random_weights_are_refused_unless_they_are_allowed():
    with pytest.raises(
        ValueError, match=r"^backbone\.weights must not be null for random, .*=true$"
    ):
        LazyExtractor(RANDOM).digests(SHAPE)
    with pytest.raises(ValueError, match="allow_random_weights=true"):
        LazyExtractor(RANDOM).check(None)


def test_random_weights_are_drawn_with_the_seed():
    state = torch.random.get_rng_state()
    first, again, other = (
        LazyExtractor(RANDOM, random_seed=seed).digests(SHAPE) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == again
    assert first.weights != other.weights


def test_weights_are_not_set_in_two_places():
    with pytest.raises(
        ValueError, match=r"must not hold weights, which are set by backbone\.weights"
    ):
        load_backbone(
            RANDOM.factory,
            arguments={"architecture": "resnet18", "weights": "IMAGENET1K_V1"},
            weights=None,
            seed=1,
        )


@pytest.mark.parametrize(
    ("change", "is_random"),
    [
        ({}, True),
        ({"weights": "IMAGENET1K_V1"}, False),
        ({"weights": "some.pth"}, False),
        ({"factory": "dfkde.backbones.timm:timm_model"}, True),
        ({"factory": "torchvision.models:resnet18"}, True),
        ({"factory": "torchvision.models:resnet18", "arguments": {"weights": "DEFAULT"}}, False),
        ({"factory": "timm:create_model", "arguments": {"pretrained": False}}, True),
        ({"factory": "timm:create_model", "arguments": {"pretrained": True}}, False),
        ({"factory": "dfkde.backbones.efficientnet_lite:efficientnet_lite"}, False),
        # An argument of that name does not reach torchvision.
        ({"arguments": {"architecture": "resnet18", "weights": "IMAGENET1K_V1"}}, True),
        ({"factory": "dfkde.backbones.torchvision:get_model"}, True),
        ({"factory": "timm_of_mine:build"}, False),
    ],
)
def test_random_weights_are_named_so(change, is_random):
    backbone = replace(RANDOM, name="resnet18", **change)
    assert backbone.random is is_random
    assert backbone.label == ("resnet18 (random weights)" if is_random else "resnet18")


def test_every_field_of_a_spec_is_in_its_key():
    settings = FeaturesConfig(device="cpu", engine="torch")
    plain = spec.extraction_spec(PLAIN, image_size=64, settings=settings)
    others = [
        replace(plain, **{field.name: ("another",) if field.name != "center_crop" else 32})
        for field in fields(plain)
    ]
    assert len({plain.key, *(other.key for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("engine", "libraries"),
    [
        ("torch", ["torch", "torchvision", "timm"]),
        *(
            (name, ["torch", "torchvision", "timm", "onnx", "onnxscript", name])
            for name in ("onnxruntime", "openvino")
        ),
    ],
)
def test_a_spec_names_every_library_between_file_and_feature(engine, libraries, monkeypatch):
    pytest.importorskip(engine)
    settings = FeaturesConfig(device="cpu", engine=engine)
    plain = spec.extraction_spec(PLAIN, image_size=64, settings=settings)
    decoders = ["pillow", "imagecodecs"] if find_spec("imagecodecs") else ["pillow"]
    assert plain.versions == tuple(f"{name} {version(name)}" for name in [*libraries, *decoders])
    for changed in [*libraries, *decoders]:
        monkeypatch.setattr(
            spec, "version", lambda name, c=changed: "9" if name == c else version(name)
        )
        other = spec.extraction_spec(PLAIN, image_size=64, settings=settings)
        assert other.key != plain.key, changed


# Modules that run between file and feature and decide nothing about its value.
HOUSEKEEPING = {
    "dfkde.graph",
    "harness.system.files",
    "harness.provenance",
    "harness.data.listing",
    "harness.data.split",
    "harness.features.extractor",
    "harness.features.settings",
    "harness.features.reader",
    "harness.features.spec",
    "harness.features.feature_cache",
    "harness.system.locks",
    "harness.system.threads",
}


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_a_spec_holds_the_code_of_every_module_between_file_and_feature(
    extractor, samples, tmp_path, engine
):
    pytest.importorskip(engine)
    ran = set()

    def note(frame, event, argument):
        ran.add(frame.f_globals.get("__name__"))

    settings = FeaturesConfig(device="cpu", engine=engine, workers=2)
    reader = FeatureReader(extractor, image_size=64, cache=tmp_path, settings=settings)
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        list(reader.maps(samples))
        reader.pooled(samples)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    ours = {name for name in ran if str(name).partition(".")[0] in ("harness", "dfkde")}
    assert "harness.features.inputs" in ours
    assert ours - HOUSEKEEPING <= set(spec.CODE)


def test_the_code_of_ones_own_backbone_counts_beside_its_graph(tmp_path, monkeypatch):
    """Of an operator that it registers, a graph holds the name only."""
    own = tmp_path / "net_of_mine.py"
    monkeypatch.syspath_prepend(tmp_path)
    found = set()
    for text in ("x = 1", "x = 2", "x = 2  # the same"):
        own.write_text(text)
        provenance._read.cache_clear()
        found.add(LazyExtractor(replace(OWN, factory="net_of_mine:build")).code)
    assert len(found) == 2
    assert LazyExtractor(LITE).code == ""
    plain, other = (
        spec.extraction_spec(
            SimpleNamespace(**{**vars(PLAIN), "code": one}),
            image_size=64,
            settings=FeaturesConfig(device="cpu", engine="torch"),
        )
        for one in found
    )
    assert plain.key != other.key


def test_edited_code_between_file_and_feature_makes_other_features(monkeypatch):
    settings = FeaturesConfig(device="cpu", engine="torch")
    plain = spec.extraction_spec(PLAIN, image_size=64, settings=settings)
    assert plain.code == provenance.modules_digest(spec.CODE)
    assert all(
        provenance.modules_digest([name]) != provenance.modules_digest([]) for name in spec.CODE
    )
    read = provenance._read
    for edited in ("inputs", "torch_engine", "images"):

        def other(path, *rest, edited=edited, **named):
            found = read(path, *rest, **named)
            return found._replace(digest="1") if path.endswith(f"/{edited}.py") else found

        monkeypatch.setattr(provenance, "_read", other)
        assert spec.extraction_spec(PLAIN, image_size=64, settings=settings).key != plain.key, (
            edited
        )


def test_a_warm_process_imports_no_torch(samples, tmp_path):
    settings = FeaturesConfig(device="cpu", engine="torch", cache=str(tmp_path / "cache"))
    reader = feature_reader(LITE, settings, image_size=64)
    assert isinstance(reader, FeatureReader)
    assert feature_reader(LITE, settings, image_size=64) is reader
    reader.pooled(samples[:2])
    digests = [sample.digest for sample in samples[:2]]
    provenance = f"""
import sys
from pathlib import Path
from harness.config import BackboneConfig, FeaturesConfig
from harness.data import Sample
from harness.features.reader import feature_reader
reader = feature_reader(
    BackboneConfig(**{vars(LITE)!r}), FeaturesConfig(**{vars(settings)!r}), image_size=64
)
samples = [Sample(Path(), "gone", "good", False, None, d, None, (1, 1)) for d in {digests!r}]
print(reader.pooled(samples).shape, len(list(reader.maps(samples))), "torch" in sys.modules)
"""
    output = subprocess.run(
        [sys.executable, "-c", provenance], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "(2, 1280) 2 False"
