"""The models' common contract, the baselines, and a model from outside."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dfkde import DFKDE, KNN, AnomalyDetector, Constant, DFKDEResidual, Gaussian, NonFiniteError

MODELS = [DFKDE(4), DFKDEResidual(4), KNN(), Gaussian(), Constant()]


def features(n=60, d=10, *, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


# One component, for some of the checks have one feature only.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([DFKDE(1), DFKDEResidual(1), KNN(), Gaussian(), Constant()])
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_keeps_the_contract(model):
    train, test = features(), features(seed=1)
    for array in (train, test):
        array.setflags(write=False)
    fitted = clone(model).fit(train.astype(np.float32))
    scores = fitted.anomaly_score(test)
    assert scores.shape == (60,)
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, -fitted.score_samples(test))
    pipeline = make_pipeline(StandardScaler(), clone(model)).fit(train)
    scaler = StandardScaler().fit(train)
    alone = clone(model).fit(scaler.transform(train))
    expected = alone.score_samples(scaler.transform(test))
    np.testing.assert_array_equal(pipeline.score_samples(test), expected)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_names_a_row_that_is_not_finite(model):
    train = features()
    train[3] = np.nan
    with pytest.raises(NonFiniteError, match="row 3"):
        clone(model).fit(train)


def test_knn_equals_a_loop():
    train, test = features(), features(seed=1)
    expected = [min(np.linalg.norm(x - other) for other in train) for x in test]
    np.testing.assert_allclose(KNN().fit(train).anomaly_score(test), expected, rtol=1e-12)
    np.testing.assert_array_equal(KNN().fit(train).anomaly_score(train), np.zeros(60))


def test_knn_keeps_points_of_its_own():
    """scikit-learn passes on an array that is float64 already, whose owner may change it."""
    train, test = features(), features(seed=1)
    model = KNN().fit(train)
    before = model.score_samples(test)
    train[:] = 0
    np.testing.assert_array_equal(model.score_samples(test), before)


def ledoit_wolf(X):
    """The paper's estimator written out, section 3.3: towards mu I, by min(b2, d2) / d2."""
    n, p = X.shape
    centred = X - X.mean(axis=0)
    S = sum(np.outer(x, x) for x in centred) / n
    mu = np.trace(S) / p
    d2 = ((S - mu * np.eye(p)) ** 2).sum() / p
    b2 = sum(((np.outer(x, x) - S) ** 2).sum() / p for x in centred) / n**2
    shrinkage = min(b2, d2) / d2
    return shrinkage * mu * np.eye(p) + (1 - shrinkage) * S


@pytest.mark.parametrize(("n", "d"), [(20, 40), (60, 10)])
def test_gaussian_equals_scipy_with_ledoit_and_wolfs_covariance(n, d):
    train, test = features(n, d) * np.linspace(1, 3, d), features(20, d, seed=1)
    oracle = multivariate_normal(train.mean(axis=0), ledoit_wolf(train))
    np.testing.assert_allclose(
        Gaussian().fit(train).score_samples(test), oracle.logpdf(test), rtol=1e-9
    )


def test_gaussian_needs_features_that_vary():
    with pytest.raises(ValueError, match="must vary, got n_samples=5 equal rows"):
        Gaussian().fit(np.ones((5, 3)))


def test_constant_has_auroc_of_one_half():
    labels = np.arange(60) % 3 == 0
    scores = Constant().fit(features()).anomaly_score(features(seed=1))
    assert roc_auc_score(labels, scores) == 0.5


@pytest.mark.parametrize(
    "model", [DFKDE(4), DFKDE(1), DFKDEResidual(4), KNN(), Gaussian(), Constant()]
)
def test_every_model_fits_the_fewest_images_that_it_says(model):
    least = model.min_samples
    scores = clone(model).fit(features(least)).score_samples(features(5, seed=1))
    assert np.isfinite(scores).all()
    with pytest.raises(ValueError, match=r"samples?\b"):
        clone(model).fit(features(least - 1))


class Norm(AnomalyDetector):
    """A model from outside the package: the distance from the training mean."""

    def __init__(self, order=2):
        self.order = order

    def _fit(self, X):
        self.mean_ = X.mean(axis=0)

    def _score_samples(self, X):
        return -np.linalg.norm(X - self.mean_, ord=self.order, axis=1)


def test_a_model_is_one_class():
    train, test = features(), features(seed=1)
    model = clone(Norm(order=1)).fit(train)
    expected = np.abs(test - train.mean(axis=0)).sum(axis=1)
    np.testing.assert_allclose(model.anomaly_score(test), expected)
    with pytest.raises(ValueError, match="expecting 10 features"):
        model.anomaly_score(test[:, :9])


def test_import_is_cheap():
    code = (
        "import sys, dfkde; heavy = {'torch', 'sklearn', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy; dfkde.DFKDE; dfkde.localizer; dfkde.render;"
        "assert 'torch' not in sys.modules; assert set(dfkde.__all__) == set(dir(dfkde))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_is_an_attribute_error():
    import dfkde

    with pytest.raises(AttributeError, match="has no attribute 'Patches'"):
        _ = dfkde.Patches
