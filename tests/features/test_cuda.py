"""The torch engine on a GPU: as exact as on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.features.reader import FeatureReader
from tests.features.small import SIZE, TORCH

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")


def open_reader(extractor, **changes):
    return FeatureReader(extractor, image_size=SIZE, cache=None, settings=replace(TORCH, **changes))


def test_auto_takes_torch_on_the_gpu(extractor):
    spec = open_reader(extractor, device="auto", engine="auto").spec
    assert (spec.device, spec.engine) == ("cuda", "torch")


def test_the_gpu_equals_the_cpu(extractor, samples):
    expected, found = open_reader(extractor), open_reader(extractor, device="cuda")
    scale = np.abs(expected.pooled(samples)).max()
    np.testing.assert_allclose(
        found.pooled(samples), expected.pooled(samples), rtol=1e-5, atol=1e-6 * scale
    )
    for ours, theirs in zip(found.maps(samples), expected.maps(samples), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)


def test_a_feature_does_not_depend_on_its_company(extractor, samples):
    reader = open_reader(extractor, device="cuda")
    alone = [reader.pooled([sample])[0] for sample in samples]
    together = open_reader(extractor, device="cuda").pooled(samples[::-1])[::-1]
    np.testing.assert_array_equal(together, alone)


def test_a_real_network_keeps_full_precision_on_the_gpu(samples):
    """TensorFloat-32 would be off by 1e-3."""
    from torchvision.models import resnet18

    from dfkde import FeatureExtractor

    torch.manual_seed(0)
    network = FeatureExtractor(resnet18(), ["layer4"], mean=[0.5] * 3, std=[0.25] * 3)
    expected = open_reader(network).pooled(samples)
    found = open_reader(network, device="cuda").pooled(samples)
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


def test_bf16_is_close_and_not_the_same(extractor, samples):
    exact = open_reader(extractor).pooled(samples)
    rough = open_reader(extractor, device="cuda", precision="bf16").pooled(samples)
    assert 0 < np.abs(rough - exact).max() < 0.02 * np.abs(exact).max()
