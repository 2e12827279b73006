from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from harness.report import bootstrap
from harness.report.bootstrap import (
    Images,
    Resampled,
    cell_limits,
    images_of,
    interval,
    mean_of,
    p_value,
    resample,
)
from tests.report.synthetic import scores


def _case(n_normal: int, n_anomalous: int, decimals: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n_normal)
    drawn = np.concatenate([rng.normal(0, 1, n_normal), rng.normal(1.5, 1, n_anomalous)])
    order = rng.permutation(n_normal + n_anomalous)
    return (np.arange(n_normal + n_anomalous) >= n_normal)[order], drawn.round(decimals)[order]


def _images(labels: np.ndarray, values: np.ndarray) -> Images:
    return Images(values[~labels], values[labels])


def _explicit(images: Images, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of one resample."""
    drawn = np.concatenate([images.normal[i], images.anomalous[j]])
    return np.arange(len(drawn)) >= len(i), drawn


@pytest.mark.parametrize("decimals", [9, 0], ids=["distinct", "ties"])
def test_resamples_have_the_auroc_that_scikit_learn_gives_them(decimals: int) -> None:
    labels, values = _case(9, 14, decimals)
    images = _images(labels, values)
    result = resample(images, key="a", n=50)
    assert result.value == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    draws = [
        pair for i, j in bootstrap.drawn(images, key="a", n=50) for pair in zip(i, j, strict=True)
    ]
    expected = [roc_auc_score(*_explicit(images, i, j)) for i, j in draws]
    np.testing.assert_allclose(result.resamples, expected, atol=1e-12)


def test_leaving_out_one_image_gives_the_auroc_of_the_rest() -> None:
    labels, values = _case(6, 8, decimals=0)
    left_out = resample(_images(labels, values), key="a", n=2).left_out
    for label, found in zip((False, True), left_out, strict=True):
        expected = [
            roc_auc_score(np.delete(labels, i), np.delete(values, i))
            for i in np.flatnonzero(labels == label)
        ]
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(20, 63), (60, 40), (12, 30)])
def test_intervals_agree_with_scipy(shape: tuple[int, int]) -> None:
    labels, values = _case(*shape)
    normal, anomalous = values[~labels], values[labels]

    def auroc(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return (b[..., :, None] > a[..., None, :]).mean(axis=(-2, -1))

    ours = interval(resample(_images(labels, values), key="a", n=20_000))
    theirs = stats.bootstrap(
        (normal, anomalous), auroc, method="BCa", n_resamples=20_000, batch=1000, rng=1,
        confidence_level=0.95, vectorized=True, paired=False,
    ).confidence_interval  # fmt: skip
    # Both are random: two standard errors of a 2.5 % quantile of 20,000 draws.
    np.testing.assert_allclose(ours, theirs, atol=0.1 * (theirs.high - theirs.low) / 2)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, values = _case(20, 30)
    images = _images(labels, values)
    whole = resample(images, key="a", n=100)
    monkeypatch.setattr(bootstrap, "_BLOCK", 128)
    blocks = resample(images, key="a", n=100)
    np.testing.assert_array_equal(whole.left_out[1], blocks.left_out[1])
    assert len(blocks.resamples) == 100


def test_every_image_is_drawn_equally_often() -> None:
    images = _images(*_case(7, 11))
    for part, count in ((0, 7), (1, 11)):
        drawn = np.concatenate([b[part] for b in bootstrap.drawn(images, key="x", n=4000)])
        assert drawn.shape == (4000, count)
        assert stats.chisquare(np.bincount(drawn.ravel(), minlength=count)).pvalue > 1e-4


def test_categories_are_resampled_independently_and_models_alike() -> None:
    images = _images(*_case(20, 30))
    first = resample(images, key="parts/bolt", n=2000).resamples
    again = resample(images, key="parts/bolt", n=2000).resamples
    other = resample(images, key="parts/cap", n=2000).resamples
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.1


def test_an_average_is_narrower_as_independent_categories_are() -> None:
    cells = [resample(_images(*_case(30, 40)), key=str(c), n=4000) for c in range(16)]
    low, high = interval(cells[0]) or (0, 0)
    average_low, average_high = interval(mean_of(cells)) or (0, 0)
    assert (high - low) / (average_high - average_low) == pytest.approx(4, rel=0.15)


def _excludes(span: tuple[float, float] | None) -> bool:
    return span is not None and not span[0] <= 0 <= span[1]


def _difference(seed: int) -> Resampled:
    """The paired difference of two simulated models, now and then with ties or few images."""
    rng = np.random.default_rng(seed)
    n_normal, n_anomalous = rng.integers(5, 40, size=2)
    labels = np.arange(n_normal + n_anomalous) >= n_normal
    shared = rng.normal(size=len(labels))
    one, two = (
        resample(
            _images(labels, (shared + effect * labels + rng.normal(size=len(labels))).round(d)),
            key="a",
            n=999,
        )
        for effect, d in ((1.5, 9), (1.5 + rng.normal(0.6, 0.6), 9 if seed % 2 else 0))
    )
    return Resampled(
        two.value - one.value,
        two.resamples - one.resamples,
        tuple(b - a for a, b in zip(one.left_out, two.left_out, strict=True)),
    )


def _naive_p(of: Resampled) -> float:
    """Search the smallest alpha whose interval excludes 0, from small to large."""
    alphas = np.linspace(2 / (len(of.resamples) + 1), 1, 2000, endpoint=False)
    return next((a for a in alphas.tolist() if _excludes(interval(of, 1 - a))), 1.0)


def test_p_is_below_alpha_exactly_where_the_interval_excludes_zero() -> None:
    differences = [_difference(seed) for seed in range(150)]
    p = [p_value(of) for of in differences]
    for alpha in (0.01, 0.05, 0.1, 0.5):
        excluded = [_excludes(interval(of, 1 - alpha)) for of in differences]
        assert excluded == [value < alpha for value in p]
        assert 2 < sum(excluded) < 148


def test_p_agrees_with_a_search_over_levels() -> None:
    for seed in range(8):
        of = _difference(seed)
        assert p_value(of) == pytest.approx(_naive_p(of), abs=1 / 2000)


def test_p_agrees_with_intervals_of_scipy() -> None:
    """Of a mean: the jackknife of SciPy, and its interpolated quantiles, on its own resamples."""
    rng = np.random.default_rng(3)
    sample = rng.exponential(size=40) - 0.75
    n, count = len(sample), 4999
    first = stats.bootstrap(
        (sample,), np.mean, method="BCa", n_resamples=count, rng=1, vectorized=True
    )
    left_out = (sample.sum() - sample) / (n - 1)
    of = Resampled(float(sample.mean()), first.bootstrap_distribution, (left_out,))

    def theirs(alpha: float) -> tuple[float, float]:
        low, high = stats.bootstrap(
            (sample,), np.mean, method="BCa", n_resamples=0, bootstrap_result=first,
            confidence_level=1 - alpha, vectorized=True,
        ).confidence_interval  # fmt: skip
        return low, high

    p = p_value(of)
    assert 0.005 < p < 0.5
    assert not _excludes(theirs(p - 0.002))
    assert _excludes(theirs(p + 0.002))


SYMMETRIC = (np.array([-1.0, 1.0]),)
"""Images whose influence gives no acceleration."""


@pytest.mark.parametrize("below", [249, 250, 251])
def test_p_on_the_edge_worked_by_hand(below: int) -> None:
    # No bias, no acceleration: plain percentiles, of 10,000 resamples the 250th from either end.
    resamples = np.arange(10_000.0) - below + 1
    of = Resampled(float(np.median(resamples)), resamples, SYMMETRIC)
    turned = Resampled(-of.value, -resamples, SYMMETRIC)
    assert p_value(of) == p_value(turned) == pytest.approx(2 * below / 10_000, abs=1e-15)
    assert interval(of) == (250.0 - below, 9_751.0 - below)
    assert interval(turned) == (below - 9_751.0, below - 250.0)
    assert _excludes(interval(of)) == (p_value(of) < 0.05) == (below < 250)


def test_p_with_bias_and_acceleration_worked_by_hand() -> None:
    # 40 of 100 resamples are below the value; the influences 2 / 3, 2 / 3, -4 / 3 have the cubes'
    # sum -16 / 9 and the squares' 24 / 9. 8 of 100 are not above 0.
    bias, acceleration = stats.norm.ppf(0.4), -16 / 9 / (6 * (24 / 9) ** 1.5)
    resamples = np.arange(100.0) - 7
    of = Resampled(32.5, resamples, (np.array([0.0, 0.0, 3.0]),))
    shift = stats.norm.ppf(0.08) - bias
    tail = stats.norm.cdf(shift / (1 + acceleration * shift) - bias)
    assert p_value(of) == pytest.approx(2 * tail, abs=1e-9)


def test_p_is_never_zero_and_one_where_nothing_is_told() -> None:
    assert p_value(Resampled(1.0, np.linspace(0.5, 1.5, 99), SYMMETRIC)) == pytest.approx(0.02)
    for constant in (0.0, 0.3):
        alike = Resampled(constant, np.full(99, constant), SYMMETRIC)
        assert interval(alike) is None
        assert p_value(alike) == 1.0
    ties = Resampled(0.0, np.repeat([-1.0, 0.0, 1.0], 33), SYMMETRIC)
    assert p_value(ties) == 1.0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("of_zero", [0.01, 0.5, 0.99])
def test_p_where_bias_and_acceleration_are_the_largest(sign: int, of_zero: float) -> None:
    """One image decides all, and no resample is as large as the value: past the formula's pole."""
    left_out = (np.append(np.zeros(999), -sign * 1e6),)
    resamples = np.linspace(-of_zero, 1 - of_zero, 10_000).clip(0)
    of = Resampled(sign * 2.0, sign * resamples, left_out)
    low, high = interval(of) or (1, 0)
    assert low <= high
    assert _excludes((low, high)) == (p_value(of) < 0.05)
    assert p_value(of) == 2 / 10_001


def test_p_is_uniform_where_nothing_differs() -> None:
    # Resamples around an observed difference that itself varies around zero.
    rng = np.random.default_rng(0)
    observed = rng.normal(size=400)
    p = [p_value(Resampled(float(d), rng.normal(d, 1, size=2000), SYMMETRIC)) for d in observed]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_separated_scores_have_a_lower_limit_from_their_number() -> None:
    labels = np.arange(83) >= 20
    images = _images(labels, np.arange(83.0))
    assert interval(resample(images, key="a", n=100)) is None
    # Were the AUROC at the limit, 20 disjoint pairs would all be in order 1 time in 20.
    low, high = cell_limits(resample(images, key="a", n=100)) or (0, 0)
    assert (low**20, high) == (pytest.approx(0.05), 1)


def test_separated_scores_in_a_cell() -> None:
    apart = [image._replace(score=image.score + 99 * image.anomalous) for image in scores(1)]
    limits = cell_limits(resample(images_of(apart), key="parts/bolt"))
    assert limits == (pytest.approx(0.05 ** (1 / 12)), 1.0)


def test_one_image_of_a_kind_has_no_interval() -> None:
    with pytest.raises(ValueError, match="an interval needs at least 2 normal images, got 1"):
        images_of(scores(1, n_normal=1))


def test_the_drawn_numbers_never_change() -> None:
    images = _images(*_case(20, 63))
    normal, anomalous = next(bootstrap.drawn(images, key="mvtec/bottle", n=2))
    assert normal[0, :8].tolist() == [12, 10, 8, 7, 11, 16, 19, 12]
    assert anomalous[1, :8].tolist() == [47, 1, 0, 39, 60, 43, 6, 4]
