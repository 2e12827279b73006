"""What DFKDE asks of its features and parameters, and what it says of others."""

import math
import pickle

import numpy as np
import pytest

from dfkde import DFKDE, DFKDEResidual, NonFiniteError
from dfkde.density import GaussianKDE
from tests.dfkde.test_density import correlated


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fitted", [False, True])
def test_a_value_that_is_not_finite_names_its_row(value, fitted):
    train = correlated(50, 20)
    model = DFKDE().fit(train)
    train[7, 3] = value
    method = model.score_samples if fitted else model.fit
    with pytest.raises(NonFiniteError, match=r"must be finite, got .* at row 7, column 3") as error:
        method(train)
    assert error.value.row == 7


LINE_OF_16 = np.arange(20.0)[:, None] * np.ones(40)


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        (
            DFKDE(),
            correlated(17, 20),
            r"n_components=16 needs at least 18 samples, got \(n_samples=17",
        ),
        (DFKDE(), correlated(60, 15), r"n_components=16 needs at least 16 features, got .*=15\)"),
        (DFKDE(), np.ones((60, 20)), r"n_components=16 needs features that vary in .* got 0 "),
        (DFKDE(), LINE_OF_16, r"n_components=16 needs features that vary in .* got 1 "),
        (DFKDE(), np.repeat(correlated(9, 40), 3, axis=0), r"n_components=16 needs .* got 8 "),
        (DFKDE(0), correlated(60, 15), r"n_components must be an integer of at least 1, got 0"),
        (DFKDE(2.0), correlated(60, 15), r"n_components must be an integer .* got 2\.0"),
        (DFKDE(True), correlated(60, 15), r"n_components must be an integer .* got True"),
        (
            DFKDE(4, max_training_points=5),
            correlated(60, 15),
            r"max_training_points of at least 6, got 5",
        ),
        (
            DFKDE(4, max_training_points="9"),
            correlated(60, 15),
            r"max_training_points must be .* got '9'",
        ),
        (DFKDEResidual(1), LINE_OF_16, r"no residual to model; use DFKDE"),
        (DFKDEResidual(1), LINE_OF_16 + 1e6, r"no residual to model; use DFKDE"),
        (DFKDE(1), np.full((60, 20), 0.1), r"n_components=1 needs features that vary .* got 0 "),
        (DFKDE(), np.arange(20.0), r"X must be of shape \(n_samples, n_features\), got \(20,\)"),
        (DFKDE(), np.float64(3), r"X must be of shape \(n_samples, n_features\), got \(\)"),
    ],
)
def test_rules_of_fit_are_reported_in_one_line(model, train, message):
    with pytest.raises(ValueError, match=message) as error:
        model.fit(train)
    assert "\n" not in str(error.value)


def test_width_at_scoring_must_be_that_of_training():
    with pytest.raises(ValueError, match="X has 19 features, but DFKDE is expecting 20") as error:
        DFKDE().fit(correlated(60, 20)).score_samples(correlated(5, 19))
    assert "\n" not in str(error.value)


def test_kernel_density_needs_points_that_vary():
    points = np.random.default_rng(0).normal(size=(20, 1)) * np.ones(3)
    with pytest.raises(
        ValueError, match="training points must be of full rank, got 3 dir"
    ) as error:
        GaussianKDE().fit(points)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", [DFKDE(4), DFKDEResidual(4)])
def test_the_range_of_a_score(model):
    """Finite to 1e150 standard deviations; beyond float64 it is infinite, and never NaN."""
    model.fit(correlated(60, 20))
    scores = model.anomaly_score([[1e150] * 20, [1e160] * 20])
    assert np.isfinite(scores[0])
    assert scores[1] == np.inf


def test_an_error_about_a_row_goes_between_processes():
    error = NonFiniteError(7, 3, math.inf)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.row) == (NonFiniteError, str(error), 7)
