"""DFKDE's log density against independent oracles."""

import numpy as np
import pytest
from scipy.stats import gaussian_kde

from dfkde import DFKDE, DFKDEResidual, NonFiniteError


def oracle(train, test, k):
    """Log density by the plain definition: full SVD, scipy's KDE."""
    mean = train.mean(axis=0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:k]
    kde = gaussian_kde((directions @ (train - mean).T), bw_method="scott")
    return kde.logpdf(directions @ (test - mean).T)


@pytest.mark.parametrize(("n", "d", "k"), [(60, 200, 16), (200, 20, 16), (40, 5, 2), (30, 4, 4)])
def test_log_density_equals_scipy(n, d, k):
    rng = np.random.default_rng(n)
    train = rng.normal(size=(n, d)) @ np.diag(np.linspace(3, 0.1, d)) + 5
    test = 3 * rng.normal(size=(50, d)) + 5
    model = DFKDE(n_components=k).fit(train)
    np.testing.assert_allclose(model.score_samples(test), oracle(train, test, k), rtol=1e-9)
    np.testing.assert_array_equal(model.anomaly_score(test), -model.score_samples(test))


def test_residual_equals_dfkde_with_all_components():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(50, 6)), rng.normal(size=(20, 6))
    np.testing.assert_array_equal(
        DFKDEResidual(6).fit(train).score_samples(test), DFKDE(6).fit(train).score_samples(test)
    )


def test_nan_names_its_row():
    train = np.random.default_rng(0).normal(size=(50, 20))
    train[7, 3] = np.nan
    with pytest.raises(NonFiniteError, match=r"NaN at row 7, column 3") as error:
        DFKDE().fit(train)
    assert error.value.row == 7


def test_too_few_images():
    with pytest.raises(ValueError, match=r"n_components=16 needs at least 18 samples"):
        DFKDE().fit(np.random.default_rng(0).normal(size=(17, 20)))
