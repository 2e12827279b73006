"""PCA through the smaller Gram matrix against the full SVD."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gaussian_kde

from dfkde import DFKDE, DFKDEResidual, density
from dfkde.density import PCA, exact_mean, leading_components_of_scatter


def spectrum(n, d, values, *, seed=0):
    """Features with given singular values, up to the mean that centring takes away."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(n, len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(d, len(values))))[0]
    return left * values @ right.T


def full_svd(X, k):
    centred = X - X.mean(axis=0)
    _, singular_values, components = np.linalg.svd(centred, full_matrices=False)
    return singular_values[:k] ** 2 / (len(X) - 1), components[:k]


def assert_same_axes(actual, expected, *, atol):
    signs = np.sign(np.einsum("ij,ij->i", actual, expected))
    np.testing.assert_allclose(actual * signs[:, None], expected, atol=atol)


@pytest.mark.parametrize(("n", "d"), [(50, 300), (300, 50), (60, 60), (20, 17), (18, 2048)])
def test_equals_full_svd(n, d):
    X = spectrum(n, d, np.geomspace(10, 0.1, min(n, d) - 1)) + 3
    fitted = PCA(16).fit(X)
    variances, components = full_svd(X, 16)
    np.testing.assert_allclose(fitted.variances_, variances, rtol=1e-9)
    assert_same_axes(fitted.components_, components, atol=1e-9)


@pytest.mark.parametrize("shape", [(80, 200), (200, 80)])
@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("gap", [0.5, 1e-2])
def test_subspace_is_exact_however_ill_conditioned(shape, smallest, gap):
    kept = np.geomspace(1, smallest, 16)
    X = spectrum(*shape, np.concatenate([kept, smallest * (1 - gap) * np.linspace(1, 0.1, 40)]))
    components, expected = PCA(16).fit(X).components_, full_svd(X, 16)[1]
    cosines = np.linalg.svd(components @ expected.T, compute_uv=False)
    assert np.sqrt(np.abs(1 - cosines.min() ** 2)) < 1e-7
    np.testing.assert_allclose(components @ components.T, np.eye(16), atol=1e-12)


def test_svd_is_taken_where_the_gram_matrix_would_be_inexact(monkeypatch):
    taken = []
    svd = density.linalg.svd
    monkeypatch.setattr(
        density.linalg, "svd", lambda a, **options: taken.append(a.shape) or svd(a, **options)
    )
    PCA(4).fit(spectrum(80, 200, [1, 1, 1, 1, 0.5, 0.5]))
    PCA(4).fit(spectrum(80, 200, [1, 1, 1, 1e-4, 0.9e-4, 0.8e-4]))
    assert taken == [(8, 8), (80, 200)]


@settings(max_examples=30)
@given(
    shape=st.sampled_from([(80, 200), (200, 80), (60, 60)]),
    smallest=st.floats(-4, 0).map(lambda power: 10**power),
    ratio=st.floats(1e-3, 0.99),
    decay=st.floats(1e-2, 1),
    far=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_scores_equal_those_of_the_full_svd(shape, smallest, ratio, decay, far, seed):
    """To 1e-9 whatever the spectrum; absolutely so where the log density is near zero."""
    n_left_out = min(shape) - 17
    left_out = smallest * ratio * np.geomspace(1, decay, n_left_out)
    X = spectrum(*shape, np.concatenate([np.geomspace(1, smallest, 16), left_out]), seed=seed)
    rng = np.random.default_rng(seed)
    points = X[:10] + far * rng.normal(size=(10, shape[1]))
    mean, directions = X.mean(axis=0), full_svd(X, 16)[1]
    kde = gaussian_kde(((X - mean) @ directions.T).T)
    expected = kde.logpdf(((points - mean) @ directions.T).T)
    found = DFKDE(16).fit(X).score_samples(points)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=60)
@given(
    n=st.integers(3, 300),
    d=st.integers(1, 40),
    value=st.floats(-1e9, 1e9),
    seed=st.integers(0, 2**32 - 1),
)
def test_equal_rows_do_not_vary(n, d, value, seed):
    """Whatever they hold, and although a sum of many equal numbers is rounded at each step."""
    rng = np.random.default_rng(seed)
    for row in (np.full(d, value), value * rng.normal(size=d)):
        with pytest.raises(ValueError, match=r"n_components=1 needs features .* got 0 "):
            DFKDE(1).fit(np.tile(row, (n, 1)))


@settings(max_examples=60)
@given(rank=st.integers(1, 5), offset=st.floats(-1e4, 1e4), seed=st.integers(0, 2**32 - 1))
def test_the_rank_is_found_however_far_from_the_origin(rank, offset, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, rank)) @ rng.normal(size=(rank, 30)) + offset
    PCA(rank).fit(X)
    with pytest.raises(ValueError, match=rf"n_components={rank + 1} needs .* got {rank} "):
        PCA(rank + 1).fit(X)


@pytest.mark.parametrize(("k", "shape", "rank"), [(5, (4, 9), 4), (10, (20, 9), 9), (9, (3, 3), 3)])
def test_more_components_than_the_features_can_have(k, shape, rank):
    with pytest.raises(ValueError, match=f"n_components={k} needs .* as many .*, got {rank} "):
        PCA(k).fit(np.random.default_rng(0).normal(size=shape))


def test_the_mean_is_exact_for_rows_that_are_many():
    X = np.full((40_000, 2), 0.1)
    assert not (X.mean(axis=0) == 0.1).all()
    assert (exact_mean(X) == 0.1).all()


@pytest.mark.parametrize("shape", [(50, 300), (300, 50), (51, 50)])
def test_many_samples_are_taken_in_blocks(shape, monkeypatch):
    X = spectrum(*shape, np.geomspace(10, 0.1, 40)) + 3
    whole = PCA(5).fit(X)
    monkeypatch.setattr(density, "_CENTRED_BLOCK", 7 * shape[1])
    blocks = PCA(5).fit(X)
    np.testing.assert_allclose(blocks.components_, whole.components_, atol=1e-12)
    np.testing.assert_allclose(blocks.variances_, whole.variances_, rtol=1e-12)
    np.testing.assert_allclose(blocks.transform(X), whole.transform(X), atol=1e-12)
    np.testing.assert_allclose(blocks.squared_residual(X), whole.squared_residual(X), rtol=1e-9)


@pytest.mark.parametrize("model", [DFKDE(16), DFKDEResidual(16)])
def test_many_features_are_not_copied(model, monkeypatch):
    monkeypatch.setattr(density, "_CENTRED_BLOCK", 2**12)
    monkeypatch.setattr(density, "_DISTANCE_BLOCK", 2**14)
    X = np.random.default_rng(0).normal(size=(3000, 512)).astype(np.float32)
    tracemalloc.start()
    try:
        model.fit(X).score_samples(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < X.nbytes


@pytest.mark.parametrize("model", [DFKDE(5), DFKDEResidual(5)])
@pytest.mark.parametrize("shape", [(50, 300), (300, 50)])
def test_float32_features_score_as_the_same_in_float64(model, shape):
    X = spectrum(*shape, np.geomspace(10, 0.1, 40)).astype(np.float32) + 3
    narrow = model.fit(X).score_samples(X)
    wide = model.fit(X.astype(np.float64)).score_samples(X.astype(np.float64))
    assert narrow.dtype == np.float64
    np.testing.assert_array_equal(narrow, wide)


def test_signs_are_fixed():
    X = spectrum(50, 30, np.linspace(5, 1, 20))
    for components in (PCA(5).fit(X).components_, PCA(5).fit(-X).components_):
        largest = np.abs(components).argmax(axis=1)
        assert (components[np.arange(5), largest] > 0).all()
    np.testing.assert_allclose(PCA(5).fit(X).components_, PCA(5).fit(-X).components_, atol=1e-12)


def test_residual_is_what_the_projection_leaves_out():
    X = spectrum(50, 30, np.linspace(5, 1, 20))
    fitted = PCA(5).fit(X)
    distance = [np.linalg.norm(x - f) ** 2 for x, f in zip(X, projection(fitted, X), strict=True)]
    np.testing.assert_allclose(fitted.squared_residual(X), distance, rtol=1e-12)


def projection(fitted, X):
    return fitted.transform(X) @ fitted.components_ + fitted.mean_


def test_scatter_gives_the_same_components():
    X = spectrum(50, 30, np.linspace(5, 1, 20))
    centred = X - X.mean(axis=0)
    components = leading_components_of_scatter(np.triu(centred.T @ centred), 5)
    np.testing.assert_allclose(components, PCA(5).fit(X).components_, atol=1e-9)
