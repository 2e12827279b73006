"""Anomaly maps against naive loops and scipy."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal

from dfkde import DFKDE, KNN, Constant, DFKDEResidual, Gaussian, localizer, render
from dfkde.localizers import PatchDensity


def feature_maps(n=40, d=10, *, seed=0):
    """Feature maps (n, d, 2, 3) whose positions differ in mean and spread."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(n, d, 2, 3)) * rng.uniform(0.5, 2, size=(d, 2, 3))
    return (maps + rng.normal(size=(d, 2, 3))).astype(np.float32)


TRAIN, IMAGE = feature_maps(), feature_maps(1, seed=1)[0]
POOLED = TRAIN.mean(axis=(2, 3))
for _array in (TRAIN, IMAGE, POOLED):
    _array.setflags(write=False)


@pytest.mark.parametrize("model", [DFKDE(4), DFKDEResidual(4), KNN(), Gaussian(), Constant()])
def test_occlusion_replaces_one_position_at_a_time(model):
    model = model.fit(POOLED)
    fitted = localizer("occlusion").fit(model, POOLED, iter(TRAIN))
    expected = np.empty((2, 3))
    for i in range(2):
        for j in range(3):
            before, after = IMAGE.astype(np.float64), IMAGE.astype(np.float64)
            after[:, i, j] = TRAIN[:, :, i, j].mean(axis=0, dtype=np.float64)
            scores = model.anomaly_score([before.mean((1, 2)), after.mean((1, 2))])
            expected[i, j] = scores[0] - scores[1]
    np.testing.assert_allclose(fitted.anomaly_map(IMAGE), expected, rtol=1e-9, atol=1e-9)


def test_occlusion_of_a_projected_feature_is_occlusion_of_the_feature():
    """The projection is linear, so replacing the projected feature gives the same map."""
    model = DFKDE(4).fit(POOLED)
    patches = model.pca_.transform(IMAGE.reshape(10, 6).T.astype(np.float64))
    means = model.pca_.transform(TRAIN.reshape(40, 10, 6).mean(axis=0, dtype=np.float64).T)
    log_density = model.kde_.score_samples
    expected = [
        log_density((patches.mean(axis=0) + (means[p] - patches[p]) / 6)[None])[0]
        - log_density(patches.mean(axis=0)[None])[0]
        for p in range(6)
    ]
    fitted = localizer("occlusion").fit(model, POOLED, TRAIN)
    np.testing.assert_allclose(fitted.anomaly_map(IMAGE).ravel(), expected, rtol=1e-9, atol=1e-9)


def test_patch_density_equals_scipy_at_each_position():
    fitted = PatchDensity(3).fit(DFKDE(4).fit(POOLED), POOLED, TRAIN)
    every = TRAIN.transpose(0, 2, 3, 1).reshape(-1, 10).astype(np.float64)
    directions = np.linalg.svd(every - every.mean(axis=0), full_matrices=False)[2][:3]
    points = ((every - every.mean(axis=0)) @ directions.T).reshape(40, 6, 3)
    query = (IMAGE.reshape(10, 6).T - every.mean(axis=0)) @ directions.T
    own = np.stack([np.cov(points[:, p].T) for p in range(6)])
    covariance = (0.9 * own + 0.1 * own.mean(axis=0)) * 40 ** (-2 / 7)
    expected = [
        -np.log(
            np.mean([multivariate_normal(x, covariance[p]).pdf(query[p]) for x in points[:, p]])
        )
        for p in range(6)
    ]
    # The pooled features are float32, and so is the mean that they give.
    np.testing.assert_allclose(fitted.anomaly_map(IMAGE).ravel(), expected, rtol=1e-5)


def test_patch_density_bears_a_position_that_never_changes():
    maps = TRAIN.copy()
    maps[:, :, 0, 0] = 1.0
    pooled = maps.mean(axis=(2, 3))
    fitted = PatchDensity(3).fit(DFKDE(4).fit(pooled), pooled, maps)
    assert np.isfinite(fitted.anomaly_map(IMAGE)).all()
    assert fitted.anomaly_map(IMAGE)[0, 0] > fitted.anomaly_map(maps[0])[0, 0]


def test_uniform_repeats_the_image_score():
    model = DFKDE(4).fit(POOLED)
    fitted = localizer("uniform").fit(model, POOLED, iter(()))
    expected = model.anomaly_score(IMAGE.astype(np.float64).mean(axis=(1, 2))[None])[0]
    np.testing.assert_allclose(fitted.anomaly_map(IMAGE), np.full((2, 3), expected), rtol=1e-9)


def test_maps_are_float64_of_the_grid():
    for name in ("occlusion", "patch_density", "uniform"):
        maps = feature_maps(d=20)
        pooled = maps.mean(axis=(2, 3))
        fitted = localizer(name).fit(DFKDE(4).fit(pooled), pooled, maps)
        anomaly_map = fitted.anomaly_map(maps[0])
        assert anomaly_map.shape == (2, 3)
        assert anomaly_map.dtype == np.float64


def test_unknown_localizer_lists_the_choices():
    assert localizer("none") is None
    with pytest.raises(ValueError, match=r"must be one of \['occlusion'.*'none'\], got 'gradcam'"):
        localizer("gradcam")


@pytest.mark.parametrize("name", ["occlusion", "patch_density"])
def test_maps_must_be_as_many_as_features(name):
    pooled = feature_maps(d=20).mean(axis=(2, 3))
    with pytest.raises(ValueError, match="as many as train_features, got 39 and 40"):
        localizer(name).fit(DFKDE(4).fit(pooled), pooled, feature_maps(39, d=20))


def test_patch_density_reads_the_maps_twice():
    with pytest.raises(ValueError, match="train_maps are read twice, got an iterator"):
        PatchDensity(3).fit(DFKDE(4).fit(POOLED), POOLED, iter(TRAIN))


def test_patch_density_checks_its_parameters():
    model = DFKDE(4).fit(POOLED)
    with pytest.raises(ValueError, match=r"shrinkage must lie in \(0, 1\], got 0"):
        PatchDensity(3, shrinkage=0).fit(model, POOLED, TRAIN)
    with pytest.raises(ValueError, match="n_components must be an integer of at least 1, got 0"):
        PatchDensity(0).fit(model, POOLED, TRAIN)


def test_patch_density_needs_enough_features():
    with pytest.raises(ValueError, match="n_components=16 needs at least 16 features, got 10"):
        PatchDensity().fit(DFKDE(4).fit(POOLED), POOLED, TRAIN)


def test_render_is_bilinear_then_gaussian():
    import torch

    values = np.random.default_rng(0).normal(size=(8, 7))
    values.setflags(write=False)
    upsampled = torch.nn.functional.interpolate(
        torch.from_numpy(values.copy())[None, None], size=(120, 90), mode="bilinear"
    )[0, 0].numpy()
    expected = gaussian_filter(upsampled, (4 * 120 / 256, 4 * 90 / 256))
    np.testing.assert_allclose(render(values, size=(120, 90)), expected, atol=1e-12)
    np.testing.assert_allclose(render(values, size=(120, 90), sigma=0), upsampled, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, -17.3, 1e30])
def test_render_keeps_a_constant_to_the_last_bit(value):
    rendered = render(np.full((8, 8), value), size=(90, 70))
    assert rendered.shape == (90, 70)
    assert np.unique(rendered).tolist() == [value]
