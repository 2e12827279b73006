"""Anomaly maps against naive loops and scipy."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dfkde import DFKDE, localizer, render


def test_occlusion_replaces_one_position_at_a_time():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(40, 10, 2, 3))
    pooled = maps.mean(axis=(2, 3))
    model = DFKDE(n_components=4).fit(pooled)
    fitted = localizer("occlusion").fit(model, pooled, iter(maps))
    image = rng.normal(size=(10, 2, 3))
    expected = np.empty((2, 3))
    for i in range(2):
        for j in range(3):
            changed = image.copy()
            changed[:, i, j] = maps[:, :, i, j].mean(axis=0)
            before, after = model.anomaly_score([image.mean((1, 2)), changed.mean((1, 2))])
            expected[i, j] = before - after
    np.testing.assert_allclose(fitted.anomaly_map(image), expected, atol=1e-10)


def test_unknown_localizer_lists_the_choices():
    assert localizer("none") is None
    with pytest.raises(ValueError, match=r"localizer must be one of \['occlusion'.*'none'\]"):
        localizer("gradcam")


def test_render_is_bilinear_then_gaussian():
    import torch

    values = np.random.default_rng(0).normal(size=(8, 7))
    tensor = torch.from_numpy(values)[None, None]
    upsampled = torch.nn.functional.interpolate(
        tensor, size=(120, 90), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    expected = gaussian_filter(upsampled, (4 * 120 / 256, 4 * 90 / 256))
    np.testing.assert_allclose(render(values, size=(120, 90)), expected, atol=1e-12)
