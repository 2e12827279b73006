"""The whole experiment: what its record holds, and what it refuses."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from dfkde import Constant
from harness.config import FeaturesConfig, ModelConfig
from harness.data import DataError
from harness.experiment import evaluate
from harness.features.reader import FeatureReader
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent


def test_record_says_where_its_numbers_come_from(job, split):
    record = evaluate(job)
    assert record.data_fingerprint == split.fingerprint
    # As `FeatureExtractor` documents it: the modules with their settings, then the tensors.
    module, digest = tiny.build(), hashlib.sha256()
    for name, part in module.named_modules():
        digest.update(f"{name}:{type(part).__name__}({part.extra_repr()})\n".encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}:{tensor.dtype}{list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    assert record.weights_digest == digest.hexdigest()
    assert record.settings["model.n_components"] == "4"
    assert record.settings["image_size"] == "64"
    assert not record.official
    assert (record.n_train, record.n_test_normal + record.n_test_anomalous) == (
        len(split.train),
        len(split.test),
    )


def test_extraction_is_timed_where_no_features_come_from_the_cache(job):
    record = evaluate(job)
    assert record.durations["extraction"] == record.durations["features"]
    assert "extraction" not in evaluate(job).durations
    other = replace(job, image_size=32)
    assert "extraction" in evaluate(replace(other, n_train=8)).durations
    assert "extraction" not in evaluate(other).durations


def test_the_fitted_job_is_passed_on(job, split):
    kept = []
    record = evaluate(job, split=split, keep=kept.append)
    [fitted] = kept
    assert fitted.split is split
    test = fitted.reader.pooled(split.test, maps=True)
    assert [score.score for score in record.scores] == fitted.model.anomaly_score(test).tolist()


def test_without_localizer_pixel_metrics_are_absent_with_the_reason(job):
    record = evaluate(replace(job, localizer="none"))
    assert "pixel_auroc" not in record.metrics
    assert record.undefined["pixel_auroc"] == "localizer=none makes no anomaly maps"


def test_pixel_resolution_changes_pixel_metrics_only(job):
    native, resized = evaluate(job), evaluate(replace(job, pixel_resolution=32))
    assert resized.scores == native.scores
    assert resized.metrics["pixel_auroc"] != native.metrics["pixel_auroc"]


def test_a_threshold_needs_images_to_hold_out(job):
    short = replace(job, threshold_quantile=0.9, n_train=6)
    with pytest.raises(ValueError, match=r"^threshold_quantile must be null where a tenth"):
        evaluate(short)


def test_a_feature_that_is_not_finite_names_its_image(job, split, monkeypatch):
    pooled = FeatureReader.pooled

    def broken(self, samples, *, maps):
        features = pooled(self, samples, maps=maps).copy()
        features[3] = np.nan
        return features

    monkeypatch.setattr(FeatureReader, "pooled", broken)
    with pytest.raises(DataError, match=split.train[3].name):
        evaluate(job)


def test_a_feature_of_a_test_image_that_is_not_finite_names_its_image(job, split, monkeypatch):
    pooled = FeatureReader.pooled

    def broken(self, samples, *, maps):
        features = pooled(self, samples, maps=maps).copy()
        if samples == split.test:
            features[5, 2] = np.inf
        return features

    monkeypatch.setattr(FeatureReader, "pooled", broken)
    with pytest.raises(DataError, match=f"{split.test[5].name}: features must be finite, got inf"):
        evaluate(job)


class Elsewhere(Constant):
    """A constant score whose multiples are rounded."""

    def _score_samples(self, X):
        return super()._score_samples(X) - 17.3


@pytest.mark.parametrize("localizer", ["occlusion", "uniform"])
@pytest.mark.parametrize("factory", ["dfkde.baselines:Constant", "tests.test_experiment:Elsewhere"])
def test_a_constant_model_is_exactly_no_better_than_chance(job, localizer, factory):
    constant = ModelConfig("constant", factory)
    record = evaluate(replace(job, model=constant, localizer=localizer))
    assert record.metrics["image_auroc"] == 0.5
    assert record.metrics["pixel_auroc"] == 0.5
    assert record.metrics["aupro"] == pytest.approx(0.15, abs=1e-12)


def test_by_default_images_are_read_as_published():
    """Resized to 256 x 256 by the antialiased bilinear filter, without a crop."""
    config = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())
    assert (config["image_size"], config["center_crop"]) == (256, None)
    features = yaml.safe_load((ROOT / "conf" / "features" / "default.yaml").read_text())
    assert FeaturesConfig(**features).resize == "pil"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            ModelConfig("m", "dfkde.density:DFKDE", {"n_component": 8}),
            r"model\.params\.n_component is not .* did you mean 'n_components'",
        ),
        (ModelConfig("m", "dfkde.density:DFKD"), r"model\.factory must be an importable"),
        (ModelConfig("m", "no.such:Model"), r"model\.factory must be an importable"),
    ],
)
def test_a_model_that_cannot_be_built_is_named_in_one_line(job, model, message):
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(replace(job, model=model))
    assert "\n" not in str(caught.value)
