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
    pooled = TRAIN.mean(axis=(2, 3), dtype=np.float64)
    fitted = PatchDensity(3).fit(DFKDE(4).fit(pooled), pooled, TRAIN)
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
    np.testing.assert_allclose(fitted.anomaly_map(IMAGE).ravel(), expected, rtol=1e-9)


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


def test_maps_are_float64_of_the_feature_maps_size():
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


def fit_patch_density(maps, k=3):
    return PatchDensity(k).fit(None, maps.mean(axis=(2, 3)), maps)


def spread(*, channels, among):
    """Maps of which only some channels vary, from image to image or from place to place."""
    maps = np.full((40, 10, 2, 3), 0.1)
    shape = {"images": (40, channels, 2, 3), "places": (1, channels, 2, 3)}[among]
    maps[:, :channels] += np.random.default_rng(0).normal(size=shape)
    return maps


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (TRAIN[:1], "patch_density needs at least 2 samples, got 1"),
        (TRAIN[:2, :, :1, :2], r"n_components=3 needs feature maps that vary .*, got 2 \(n_samp"),
        (spread(channels=2, among="images"), r"n_components=3 needs .*, got 2 \(n_samples=40"),
        (spread(channels=0, among="images"), r"n_components=3 needs feature maps .*, got 0 "),
        (spread(channels=10, among="places"), r"n_components=3 needs feature maps .*, got 0 "),
        (np.tile(TRAIN[:1], (40, 1, 1, 1)), r"n_components=3 needs feature maps .*, got 0 "),
    ],
)
def test_patch_density_needs_maps_that_vary(maps, message):
    with pytest.raises(ValueError, match=message) as error:
        fit_patch_density(maps)
    assert "\n" not in str(error.value)


def test_patch_density_of_two_images_is_finite():
    """At one position two images vary in one direction, at all of them in three."""
    assert np.isfinite(fit_patch_density(TRAIN[:2]).anomaly_map(IMAGE)).all()


@pytest.mark.parametrize("name", ["occlusion", "patch_density"])
@pytest.mark.parametrize("change", [lambda one: one[:9], lambda one: one.transpose(0, 2, 1)])
def test_maps_of_another_shape_are_refused(name, change):
    """Another width, or as many positions in another layout: in training and in use."""
    fitted = localizer(name) if name == "occlusion" else PatchDensity(3)
    model = DFKDE(4).fit(POOLED)
    shape = r"\(n_features, h, w\) = \(10, 2, 3\)"
    maps = [*TRAIN[:-1], change(TRAIN[-1])]
    with pytest.raises(ValueError, match=rf"train_maps\[39\] must be of shape {shape} .*, got"):
        fitted.fit(model, POOLED, maps)
    fitted.fit(model, POOLED, TRAIN)
    with pytest.raises(ValueError, match=rf"feature_map must be of shape {shape} .*, got"):
        fitted.anomaly_map(change(IMAGE))


@pytest.mark.parametrize("name", ["occlusion", "patch_density"])
def test_maps_must_be_those_of_the_features(name):
    fitted = localizer(name) if name == "occlusion" else PatchDensity(3)
    with pytest.raises(ValueError, match=r"train_maps\[0\] must be of shape .*, got \(9, 2, 3\)"):
        fitted.fit(DFKDE(4).fit(POOLED), POOLED, TRAIN[:, :9])
    with pytest.raises(ValueError, match=r"train_maps\[0\] must be of shape .*, got \(10, 6\)"):
        fitted.fit(DFKDE(4).fit(POOLED), POOLED, TRAIN.reshape(40, 10, 6))


@pytest.mark.parametrize("name", ["occlusion", "patch_density"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_refused(name, value):
    fitted = localizer(name) if name == "occlusion" else PatchDensity(3)
    model = DFKDE(4).fit(POOLED)
    maps, image = TRAIN.copy(), IMAGE.copy()
    maps[7, 3, 1, 2] = image[3, 1, 2] = value
    message = rf"must be finite, got {value} at \(3, 1, 2\)"
    with pytest.raises(ValueError, match=rf"train_maps\[7\] {message}"):
        fitted.fit(model, POOLED, maps)
    fitted.fit(model, POOLED, TRAIN)
    with pytest.raises(ValueError, match=f"feature_map {message}"):
        fitted.anomaly_map(image)


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
