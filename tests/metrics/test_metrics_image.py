"""Image-level metrics: scikit-learn, float64 ranks, thresholds, errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)

from harness.metrics import (
    UndefinedMetricError,
    image_auroc,
    image_average_precision,
    image_f1_at,
    image_f1_max,
    image_metrics,
)


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(-3, 3) | st.floats(-1e9, 1e9)), min_size=1, max_size=60
    )
)
def test_agrees_with_scikit_learn(images):
    labels, scores = map(np.array, zip((True, 0.5), (False, 0.5), *images, strict=True))
    precision, recall, _ = precision_recall_curve(labels, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-30))
    assert image_auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert image_average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )
    assert image_f1_max(labels, scores).value == pytest.approx(best, abs=1e-12)
    for threshold in (-np.inf, -0.5, 0.0, 1.0, scores[-1], np.inf):
        assert image_f1_at(labels, scores, threshold) == pytest.approx(
            f1_score(labels, scores >= threshold), abs=1e-12
        )


def test_the_threshold_reaches_its_f1_and_is_the_highest():
    labels, scores = [0, 1, 0, 1, 1], [0.0, 1.0, 2.0, 3.0, 4.0]
    value, threshold = image_f1_max(labels, scores)
    assert image_f1_at(labels, scores, threshold) == value
    # Two thresholds are equally good here: 4 and 1 give F1 = 2/3 each.
    assert image_f1_max([1, 0, 0, 1], [1.0, 2.0, 3.0, 4.0]) == (pytest.approx(2 / 3), 4.0)


def test_scores_are_ranked_as_float64():
    # Log densities far out: distinct, but equal as float32 and as probabilities.
    assert image_auroc([0, 1], [1e6, 1e6 + 1e-6]) == 1.0
    assert image_auroc([0, 1], [800.0, 900.0]) == 1.0


def test_a_threshold_is_not_rounded_to_the_dtype_of_the_scores():
    scores = np.array([2**24, 2**24 + 4], np.float32)
    assert image_f1_at([0, 1], scores, 2.0**24 + 1) == 1.0
    assert image_f1_at([0, 1], scores, 1e300) == 0.0


@pytest.mark.parametrize("scores", [[1j, 2j], ["a", "b"], [None, None]])
def test_scores_that_are_no_numbers_are_refused(scores):
    with pytest.raises(TypeError, match="scores must be real numbers, got dtype"):
        image_auroc([0, 1], scores)


def test_calling_everything_anomalous():
    assert image_f1_at([1, 1, 1, 0], [0.0] * 4, -1.0) == pytest.approx(6 / 7)
    assert image_auroc([1, 1, 1, 0], [0.0] * 4) == 0.5


def test_image_metrics_are_the_single_functions():
    labels, scores = [0, 1, 0, 1, 1], [0.3, 0.2, 0.1, 0.5, 0.9]
    values, undefined = image_metrics(labels, scores, threshold=0.4)
    assert undefined == {}
    assert values == {
        "image_auroc": image_auroc(labels, scores),
        "image_average_precision": image_average_precision(labels, scores),
        "image_f1_max": image_f1_max(labels, scores).value,
        "image_f1_at": image_f1_at(labels, scores, 0.4),
    }
    assert "image_f1_at" not in image_metrics(labels, scores).values


@pytest.mark.parametrize(("label", "missing"), [(0, "anomalous"), (1, "normal")])
def test_one_class_is_undefined_and_never_zero(label, missing):
    reason = f"there is no {missing} image"
    for metric in (image_auroc, image_average_precision, image_f1_max):
        with pytest.raises(UndefinedMetricError, match=reason):
            metric([label] * 3, [0.1, 0.2, 0.3])
    with pytest.raises(UndefinedMetricError, match=reason):
        image_f1_at([label] * 3, [0.1, 0.2, 0.3], 0.2)
    values, undefined = image_metrics([label] * 3, [0.1, 0.2, 0.3], threshold=0.0)
    assert values == {}
    assert set(undefined.values()) == {reason}
    assert len(undefined) == 4


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.1, np.nan], "scores must be finite, got nan at index 1"),
        ([0, 1], [-np.inf, 0.1], "scores must be finite, got -inf at index 0"),
        ([0, 2], [0.1, 0.2], r"labels must be 0 \(normal\) or 1 \(anomalous\), got 2"),
        ([0, 1], [0.1], r"equally long, got shapes \(2,\) and \(1,\)"),
        ([[0, 1]], [[0.1, 0.2]], "one-dimensional"),
    ],
)
def test_what_cannot_be_ranked_is_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        image_auroc(labels, scores)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="threshold must be a number, got nan"):
        image_f1_at([0, 1], [0.1, 0.2], np.nan)
