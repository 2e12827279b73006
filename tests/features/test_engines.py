"""Every engine gives the same features, and none but torch needs torch twice."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.config import BackboneConfig
from harness.features.extractor import LazyExtractor
from harness.features.reader import FeatureReader
from harness.features.torch_engine import fuse_batch_norms
from tests.features.images import sample_of
from tests.features.small import SIZE, TORCH, SmallExtractor

ENGINES = ["torch", "onnxruntime", "openvino"]


def open_reader(extractor, cache, **changes):
    settings = replace(TORCH, **changes)
    return FeatureReader(extractor, image_size=SIZE, cache=cache, settings=settings)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_equal_the_plain_module(extractor, samples, engine):
    pytest.importorskip(engine)
    reader = open_reader(extractor, None, engine=engine)
    maps = np.stack(list(reader.maps(samples)))
    expected_pooled, expected_maps = plain(extractor, samples)
    scale = np.abs(expected_maps).max()
    np.testing.assert_allclose(maps, expected_maps, rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(
        reader.pooled(samples), expected_pooled, rtol=1e-5, atol=1e-6 * scale
    )


def plain(extractor, samples):
    from harness.features.inputs import read_input

    images = np.stack([read_input(s.path, image_size=SIZE) for s in samples])
    with torch.inference_mode():
        return [part.numpy() for part in extractor(torch.from_numpy(images))]


def openvino_computes_in_bf16():
    openvino = pytest.importorskip("openvino")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bf16_is_close_and_not_the_same(extractor, samples, engine):
    """Torch emulates what the processor lacks."""
    if engine == "openvino" and not openvino_computes_in_bf16():
        pytest.skip("this processor does not compute in bf16")
    exact = open_reader(extractor, None, engine=engine).pooled(samples)
    rough = open_reader(extractor, None, engine=engine, precision="bf16").pooled(samples)
    assert rough.dtype == np.float32
    assert 1e-4 < np.abs(rough - exact).max() / np.abs(exact).max() < 0.02


def test_openvino_does_not_pass_fp32_off_as_bf16(extractor, samples):
    if openvino_computes_in_bf16():
        pytest.skip("this processor computes in bf16")
    with pytest.raises(ValueError, match=r"^features\.precision must be fp32 .*, got 'bf16'$"):
        open_reader(extractor, None, engine="openvino", precision="bf16").pooled(samples)


def test_batch_norms_are_folded_where_nothing_else_reads_the_convolution(extractor):
    spec = open_reader(extractor, None).spec
    fused = fuse_batch_norms(extractor.program(spec.shape).module())
    assert not [node for node in fused.graph.nodes if "batch_norm" in str(node.target)]


class Branching(SmallExtractor):
    """The convolution's output is a feature itself, so the batch norm has to stay."""

    def forward(self, images):
        raw = self.stem[0](images)
        maps = torch.cat([raw, self.stem[1](raw)], 1)
        return maps.mean((2, 3)), maps


def test_a_convolution_that_is_read_twice_keeps_its_batch_norm(samples):
    module = Branching()
    reader = open_reader(module, None)
    expected, _ = plain(module, samples)
    np.testing.assert_allclose(reader.pooled(samples), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_translated_model_in_the_cache_spares_torch(extractor, samples, tmp_path, engine):
    pytest.importorskip(engine)
    cache = tmp_path / "cache"
    reader = open_reader(extractor, cache, engine=engine)
    reader.pooled(samples[:1])
    digests = extractor.digests(reader.spec.shape)
    code = f"""
import sys
from types import SimpleNamespace
from pathlib import Path
from harness.config import FeaturesConfig
from harness.data import Sample
from harness.config import BackboneConfig
from harness.features.reader import FeatureReader
from harness.features.extractor import Digests
extractor = SimpleNamespace(
    code="", digests=lambda shape: Digests(*{tuple(digests)!r}),
    layers={extractor.layers!r},
    mean={extractor.mean!r}, std={extractor.std!r},
)
root, name, digest = {str(samples[1].root)!r}, {samples[1].name!r}, {samples[1].digest!r}
sample = Sample(Path(root), name, "good", False, None, digest, None, (8, 8))
settings = FeaturesConfig(engine={engine!r}, device="cpu", workers=2)
reader = FeatureReader(extractor, image_size={SIZE}, cache={str(cache)!r}, settings=settings)
reader.pooled([sample])
print(reader.n_extracted, "torch" in sys.modules)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["1", "False"]


@pytest.mark.slow
def test_two_processes_translate_a_network_once(tmp_path):
    """The other one waits, and takes the finished model."""
    pytest.importorskip("onnxscript")
    code = f"""
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
logging.getLogger().handlers[0].addFilter(lambda one: one.name.endswith("engines"))
from pathlib import Path
from harness.features.engines import onnx_model
from harness.features.spec import extraction_spec
from tests.features.small import SIZE, TORCH, SmallExtractor
extractor = SmallExtractor()
spec = extraction_spec(extractor, image_size=SIZE, settings=TORCH)
onnx_model(extractor, spec, cache=Path({str(tmp_path)!r}))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "".join(said).count("translating the backbone") == 1


class Hesitant(SmallExtractor):
    def forward(self, images):
        return super().forward(images if images.sum() > 0 else images + 1)


def test_a_network_that_cannot_be_recorded_is_refused_in_one_line(samples):
    with pytest.raises(
        ValueError, match=r"^backbone\.factory must build .* 32 pixels, got [^\n]*$"
    ):
        open_reader(Hesitant(), None).pooled(samples)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree_on_a_real_network(real_images, real_weights, monkeypatch, engine):
    pytest.importorskip(engine)
    monkeypatch.syspath_prepend(real_weights)
    folder = real_images / "mvtec_ad_256" / "bottle" / "test" / "broken_large"
    photographs = [sample_of(path) for path in sorted(folder.iterdir())[:8]]
    backbone = BackboneConfig(
        name="resnet50",
        factory="resnet50_v1:build",
        layers=["layer4"],
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )
    features = [
        FeatureReader(
            LazyExtractor(backbone),
            image_size=256,
            cache=None,
            settings=replace(TORCH, engine=name),
        ).pooled(photographs)
        for name in ("torch", engine)
    ]
    scale = features[0].max()
    np.testing.assert_allclose(features[1], features[0], rtol=1e-5, atol=1e-5 * scale)
