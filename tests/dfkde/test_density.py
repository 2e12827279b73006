"""DFKDE's log density against independent oracles, and its rules."""

import math
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import gaussian_kde, multivariate_normal

from dfkde import DFKDE, DFKDEResidual
from dfkde.density import PCA, GaussianKDE

CONF = Path(__file__).resolve().parent.parent.parent / "conf"


def correlated(n, d, *, seed=0):
    """Features with decreasing variances along random directions, away from the origin."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * np.linspace(3, 0.1, d) @ rotation + 5


def projected(train, X, k):
    """PCA by the definition: full SVD of the centred training features."""
    mean = train.mean(axis=0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:k]
    return (X - mean) @ directions.T


def scipy_log_density(train, X, k):
    kde = gaussian_kde(projected(train, train, k).T, bw_method="scott")
    return kde.logpdf(projected(train, X, k).T)


def naive_log_density(points, query):
    """Kernel density by a loop over the kernels, one at a time."""
    n, k = points.shape
    covariance = np.cov(points.T).reshape(k, k) * n ** (-2 / (k + 4))
    precision = np.linalg.inv(covariance)
    log_norm = -0.5 * (k * math.log(2 * math.pi) + math.log(np.linalg.det(covariance)))
    exponents = []
    for point in points:
        difference = query - point
        exponents.append(log_norm - 0.5 * float(difference @ precision @ difference))
    largest = max(exponents)
    return largest + math.log(math.fsum(math.exp(e - largest) for e in exponents) / n)


@pytest.mark.parametrize(
    ("n", "d", "k"),
    [(60, 200, 16), (209, 300, 16), (200, 20, 16), (40, 5, 2), (30, 4, 4), (9, 1, 1)],
)
def test_log_density_equals_scipy(n, d, k):
    train, test = correlated(n, d), correlated(50, d, seed=1) * 3
    model = DFKDE(k).fit(train)
    expected = scipy_log_density(train, test, k)
    np.testing.assert_allclose(model.score_samples(test), expected, rtol=1e-9)
    np.testing.assert_array_equal(model.anomaly_score(test), -model.score_samples(test))


@settings(max_examples=40)
@given(
    n=st.integers(20, 60),
    d=st.integers(1, 80),
    k=st.integers(1, 16),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_log_density_equals_scipy_whatever_the_shape(n, d, k, scale, seed):
    k = min(k, d, n - 2)
    train, test = correlated(n, d, seed=seed) * scale, correlated(5, d, seed=seed + 1) * scale
    expected = scipy_log_density(train, test, k)
    np.testing.assert_allclose(DFKDE(k).fit(train).score_samples(test), expected, rtol=1e-9)


def test_kernel_density_equals_a_loop():
    points, queries = correlated(50, 3), correlated(20, 3, seed=1) * 2
    far = points.mean(axis=0) + np.array([[30.0], [100.0], [101.0]]) * points.std(axis=0)
    queries = np.concatenate([queries, far])
    expected = [naive_log_density(points, query) for query in queries]
    np.testing.assert_allclose(
        GaussianKDE().fit(points).score_samples(queries), expected, rtol=1e-9
    )


def test_far_points_stay_finite_and_strictly_ordered():
    train = correlated(100, 30)
    direction = train.std(axis=0)
    steps = np.concatenate([np.linspace(0, 100, 201)[20:], [1e3, 1e4, 1e5]])
    far = train.mean(axis=0) + steps[:, None] * direction
    model = DFKDE().fit(train)
    scores = model.anomaly_score(far)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()
    np.testing.assert_allclose(-scores, scipy_log_density(train, far, 16), rtol=1e-9)


def test_an_extreme_outlier_in_training_leaves_scores_apart():
    train, test = correlated(100, 30), correlated(40, 30, seed=1)
    train[0] += 1e6
    scores = DFKDE().fit(train).anomaly_score(test)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) == len(test)
    np.testing.assert_allclose(-scores, scipy_log_density(train, test, 16), rtol=1e-9)


@pytest.mark.parametrize("model", [DFKDE(), DFKDEResidual()])
def test_row_order_does_not_matter(model):
    train, test = correlated(100, 40), correlated(20, 40, seed=1)
    shuffled = np.random.default_rng(2).permutation(train)
    expected = model.fit(train).score_samples(test)
    np.testing.assert_allclose(model.fit(shuffled).score_samples(test), expected, rtol=1e-9)


@pytest.mark.parametrize(("model", "dimensions"), [(DFKDE(), 16), (DFKDEResidual(), 40)])
def test_shift_rotation_and_scale_add_a_constant(model, dimensions):
    train, test = correlated(100, 40), correlated(20, 40, seed=1)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(40, 40)))[0]
    before = model.fit(train).score_samples(test)
    after = model.fit(7 * train @ rotation - 3).score_samples(7 * test @ rotation - 3)
    np.testing.assert_allclose(after, before - dimensions * math.log(7), rtol=1e-9)


def test_any_affine_change_adds_a_constant_with_all_components():
    train, test = correlated(100, 6), correlated(20, 6, seed=1)
    matrix = np.random.default_rng(2).normal(size=(6, 6))
    before = DFKDE(6).fit(train).score_samples(test)
    after = DFKDE(6).fit(train @ matrix + 9).score_samples(test @ matrix + 9)
    expected = before - np.linalg.slogdet(matrix).logabsdet
    np.testing.assert_allclose(after, expected, rtol=1e-9)


def test_batch_size_does_not_matter(monkeypatch):
    train, test = correlated(100, 40), correlated(33, 40, seed=1)
    model = DFKDEResidual().fit(train)
    together = model.score_samples(test)
    one_by_one = np.concatenate([model.score_samples(row[None]) for row in test])
    np.testing.assert_allclose(one_by_one, together, rtol=1e-12)
    monkeypatch.setattr("dfkde.density._DISTANCE_BLOCK", 700)  # blocks of 7 rows
    np.testing.assert_allclose(model.score_samples(test), together, rtol=1e-12)


@pytest.mark.parametrize("model", [DFKDE(), DFKDEResidual()])
def test_inputs_are_left_alone(model):
    train, test = correlated(100, 40), correlated(20, 40, seed=1)
    kept = train.copy(), test.copy()
    for array in (train, test):
        array.setflags(write=False)
    model.fit(train).score_samples(test)
    np.testing.assert_array_equal(train, kept[0])
    np.testing.assert_array_equal(test, kept[1])


def test_the_parts_leave_their_inputs_alone_too():
    """The models hand their parts arrays of their own, which would hide centring in place."""
    points, queries = correlated(50, 3), correlated(20, 3, seed=1)
    for array in (points, queries):
        array.setflags(write=False)
    GaussianKDE().fit(points).score_samples(queries)
    fitted = PCA(2).fit(points)
    fitted.transform(queries)
    fitted.squared_residual(queries)


@pytest.mark.parametrize("convert", [np.asfortranarray, lambda X: np.repeat(X, 2, axis=0)[::2]])
def test_memory_layout_does_not_matter(convert):
    train, test = correlated(100, 40), correlated(20, 40, seed=1)
    expected = DFKDE().fit(train).score_samples(test)
    actual = DFKDE().fit(convert(train)).score_samples(convert(test))
    np.testing.assert_array_equal(actual, expected)


def test_float32_features_are_computed_in_float64():
    train, test = (correlated(60, 40, seed=s).astype(np.float32) for s in (0, 1))
    scores = DFKDE().fit(train).score_samples(test)
    assert scores.dtype == np.float64
    expected = scipy_log_density(train.astype(np.float64), test.astype(np.float64), 16)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_two_fits_are_equal_to_the_bit():
    train, test = correlated(60, 400), correlated(20, 400, seed=1)
    first, second = (DFKDEResidual().fit(train) for _ in range(2))
    np.testing.assert_array_equal(first.pca_.components_, second.pca_.components_)
    np.testing.assert_array_equal(first.score_samples(test), second.score_samples(test))


def test_constant_features_and_duplicate_rows_do_no_harm():
    train, test = correlated(60, 40), correlated(20, 40, seed=1)
    expected = DFKDE().fit(train).score_samples(test)
    wider = [np.hstack([X, np.full((len(X), 3), 7.0)]) for X in (train, test)]
    np.testing.assert_allclose(DFKDE().fit(wider[0]).score_samples(wider[1]), expected, rtol=1e-9)
    twice = np.repeat(train, 2, axis=0)
    oracle = scipy_log_density(twice, test, 16)
    np.testing.assert_allclose(DFKDE().fit(twice).score_samples(test), oracle, rtol=1e-9)


@pytest.mark.parametrize("model", [DFKDE, DFKDEResidual])
def test_max_training_points_draws_a_seeded_subset(model):
    train, test = correlated(100, 40), correlated(20, 40, seed=1)
    seeds = (0, 0, 1)
    scores = [
        model(max_training_points=50, random_state=s).fit(train).score_samples(test) for s in seeds
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])
    chosen = np.random.RandomState(0).choice(100, 50, replace=False)
    expected = model().fit(train[chosen]).score_samples(test)
    np.testing.assert_array_equal(scores[0], expected)


def test_all_training_points_are_used_up_to_the_limit():
    train, test = correlated(50, 40), correlated(20, 40, seed=1)
    limited = DFKDE(max_training_points=50, random_state=3).fit(train)
    np.testing.assert_array_equal(
        limited.score_samples(test), DFKDE().fit(train).score_samples(test)
    )


def test_residual_equals_independent_densities():
    train, test = correlated(80, 12), correlated(30, 12, seed=1)
    mean, k = train.mean(axis=0), 5
    directions = np.linalg.svd(train - mean)[2]
    left_out = (train - mean) @ directions[k:].T
    variance = np.trace(np.cov(left_out.T)) / (12 - k)
    gaussian = multivariate_normal(np.zeros(12 - k), variance * np.eye(12 - k))
    expected = scipy_log_density(train, test, k) + gaussian.logpdf((test - mean) @ directions[k:].T)
    np.testing.assert_allclose(DFKDEResidual(k).fit(train).score_samples(test), expected, rtol=1e-9)


def test_residual_equals_dfkde_with_all_components():
    train, test = correlated(50, 6), correlated(20, 6, seed=1)
    np.testing.assert_array_equal(
        DFKDEResidual(6).fit(train).score_samples(test), DFKDE(6).fit(train).score_samples(test)
    )


def test_residual_density_integrates_to_one():
    train = np.random.default_rng(0).normal(size=(40, 3)) + 5
    model = DFKDEResidual(1).fit(train)
    axis, step = np.linspace(-7, 7, 61, retstep=True)
    points = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3) + 5
    integral = np.exp(logsumexp(model.score_samples(points)) + 3 * np.log(step))
    assert integral == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["dfkde", "dfkde_residual"])
def test_the_method_is_configured_as_published(name):
    """16 components and at most 40,000 training points, in the class and in its file."""
    config = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    by_default = resolve_name(config["factory"])()
    configured = resolve_name(config["factory"])(**config.get("params", {}))
    for model in (by_default, configured):
        assert (model.n_components, model.max_training_points) == (16, 40_000)


def test_18_images_are_enough():
    train, test = correlated(18, 500), correlated(5, 500, seed=1)
    expected = scipy_log_density(train, test, 16)
    np.testing.assert_allclose(DFKDE().fit(train).score_samples(test), expected, rtol=1e-9)
