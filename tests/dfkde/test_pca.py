"""PCA through the smaller Gram matrix against the full SVD."""

import numpy as np
import pytest

from dfkde import pca
from dfkde.pca import PCA, leading_components_of_scatter


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
    svd = pca.linalg.svd
    monkeypatch.setattr(
        pca.linalg, "svd", lambda a, **options: taken.append(a.shape) or svd(a, **options)
    )
    PCA(4).fit(spectrum(80, 200, [1, 1, 1, 1, 0.5, 0.5]))
    PCA(4).fit(spectrum(80, 200, [1, 1, 1, 1e-4, 0.9e-4, 0.8e-4]))
    assert taken == [(4, 200), (80, 200)]


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
