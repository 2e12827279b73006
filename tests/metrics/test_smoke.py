import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from harness.metrics import pixel_metrics


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 20, 30)) > 0.8
    maps = np.round(rng.normal(size=masks.shape) + masks, 1)
    names = [f"{i}.png" for i in range(3)]
    values = pixel_metrics(lambda: zip(names, masks, maps, strict=True)).values
    truth, scores = masks.ravel(), maps.ravel()
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    expected = average_precision_score(truth, scores)
    assert values["pixel_average_precision"] == pytest.approx(expected, abs=1e-12)
