"""The whole experiment against one written again with other libraries."""

import math
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import gaussian_kde
from sklearn.decomposition import PCA
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)
from sklearn.model_selection import KFold

from dfkde.registry import LOCALIZERS
from harness.config import ModelConfig
from harness.data import load_split, read_mask
from harness.experiment import evaluate
from harness.features import engines, reader
from harness.fitting import fit
from tests import tiny
from tests.metrics.test_metrics_definition import naive_aupro, split_pixels


def independent_features(samples, crop=64):
    module = tiny.build().eval()
    edge = (64 - crop) // 2
    images = [Image.open(sample.path).convert("RGB") for sample in samples]
    arrays = [np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)) for image in images]
    arrays = [array[edge : edge + crop, edge : edge + crop] for array in arrays]
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return module.features((batch - 0.5) / 0.25).double().numpy()


@pytest.fixture
def independent(split):
    return independent_of(split)


def independent_of(split, crop=64):
    """Score function and feature maps by scikit-learn and scipy."""
    train, test = independent_features(split.train, crop), independent_features(split.test, crop)
    pca = PCA(4, svd_solver="full").fit(train.mean(axis=(2, 3)))
    kde = gaussian_kde(pca.transform(train.mean(axis=(2, 3))).T)

    def score(features):
        return -kde.logpdf(pca.transform(features).T)

    return score, train, test


def windows_mean(fine, n):
    """Adaptive average pooling to n x n, by its definition."""
    size = fine.shape[-1]
    parts = [slice(size * i // n, -(-size * (i + 1) // n)) for i in range(n)]
    rows = [np.stack([fine[..., y, x].mean((-1, -2)) for x in parts], -1) for y in parts]
    return np.stack(rows, -2)


def two_layers(samples):
    """Maps of 19 and 10 positions a side for images of 76 pixels, at the coarser size."""
    module = tiny.build().eval()
    images = [Image.open(sample.path).convert("RGB") for sample in samples]
    arrays = [np.asarray(image.resize((76, 76), Image.Resampling.BILINEAR)) for image in images]
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        fine = module.features[:1]((batch - 0.5) / 0.25)
        coarse = module.features((batch - 0.5) / 0.25)
    assert (fine.shape[-1], coarse.shape[-1]) == (19, 10)
    return np.concatenate([windows_mean(fine.double().numpy(), 10), coarse.double().numpy()], 1)


def test_several_layers_of_sizes_that_do_not_divide(job, split):
    layers = ["features.0", "features"]
    several = replace(job, backbone=replace(job.backbone, layers=layers), image_size=76)
    train, test = two_layers(split.train), two_layers(split.test)
    pca = PCA(4, svd_solver="full").fit(train.mean(axis=(2, 3)))
    kde = gaussian_kde(pca.transform(train.mean(axis=(2, 3))).T)
    expected = -kde.logpdf(pca.transform(test.mean(axis=(2, 3))).T)
    record = evaluate(several)
    np.testing.assert_allclose([s.score for s in record.scores], expected, rtol=1e-4)
    assert record.settings["backbone.layers"] == "features.0,features"
    found = next(fit(several).reader.maps(split.test[:1]))
    np.testing.assert_allclose(found, test[0], rtol=1e-4, atol=1e-5)


def test_image_scores_and_metrics_equal_an_independent_implementation(job, split, independent):
    score, _, test = independent
    record = evaluate(job)
    expected = score(test.mean(axis=(2, 3)))
    # The features are float32; the density alone is tested to 1e-9 in tests/dfkde.
    np.testing.assert_allclose([s.score for s in record.scores], expected, rtol=1e-4)
    labels = [s.anomalous for s in record.scores]
    assert labels == ["good" not in sample.name for sample in split.test]
    assert record.metrics["image_auroc"] == pytest.approx(roc_auc_score(labels, expected))
    precision, recall, _ = precision_recall_curve(labels, expected)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert record.metrics["image_f1_max"] == pytest.approx(f1.max())


def test_pixel_auroc_equals_an_independent_occlusion(job, split, independent):
    expected = independent_pixel_auroc(split, independent)
    assert evaluate(job).metrics["pixel_auroc"] == pytest.approx(expected, abs=1e-4)


def test_a_crop_equals_an_independent_implementation(job, split):
    """The backbone sees the central 40 of 64 pixels, and pixels are compared there alone."""
    score, train, test = independent_of(split, crop=40)
    record = evaluate(replace(job, center_crop=40))
    expected = score(test.mean(axis=(2, 3)))
    np.testing.assert_allclose([s.score for s in record.scores], expected, rtol=1e-4)
    assert record.settings["center_crop"] == "40"
    expected = independent_pixel_auroc(split, (score, train, test), crop=40)
    assert record.metrics["pixel_auroc"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("changes", [{"center_crop": 65}, {"center_crop": 0}, {"image_size": 0}])
def test_sizes_that_no_image_has_are_refused(job, changes):
    [name] = changes
    with pytest.raises(ValueError, match=rf"{name} must be .*, got {changes[name]}$"):
        evaluate(replace(job, **changes))


def independent_pixel_auroc(split, independent, crop=64):
    edge = (64 - crop) // 2
    masks, maps = [], []
    for sample, anomaly_map in zip(split.test, independent_maps(independent), strict=True):
        # PIL repeats the edge and aligns pixel centres; sigma is 4 px at 256, so 1 px at 64.
        image = Image.fromarray(anomaly_map.astype(np.float32))
        image = image.resize((crop, crop), Image.Resampling.BILINEAR)
        maps.append(gaussian_filter(np.asarray(image, np.float64), crop / 64))
        mask = read_mask(sample.mask_path) if sample.mask_path else np.zeros((64, 64), bool)
        masks.append(mask[edge : edge + crop, edge : edge + crop])
    return roc_auc_score(np.ravel(masks), np.ravel(maps))


def independent_maps(independent):
    """How far the score falls when a position shows its mean over the training images."""
    score, train, test = independent
    mean_map = train.mean(axis=0)
    for feature_map in test:
        whole = score(feature_map.mean(axis=(1, 2))[None])[0]
        anomaly_map = np.empty(feature_map.shape[1:])
        for y, x in np.ndindex(anomaly_map.shape):
            occluded = feature_map.copy()
            occluded[:, y, x] = mean_map[:, y, x]
            anomaly_map[y, x] = whole - score(occluded.mean(axis=(1, 2))[None])[0]
        yield anomaly_map


@pytest.fixture
def oblong_job(job, tmp_path):
    """The same job on images and masks of 80 x 112 pixels."""
    root = Path(shutil.copytree(Path(job.dataset.root) / "bottle", tmp_path / "mvtec" / "bottle"))
    for path in root.rglob("*.png"):
        Image.open(path).resize((112, 80), Image.Resampling.NEAREST).save(path)
    return replace(job, dataset=replace(job.dataset, root=str(root.parent)))


@pytest.mark.parametrize(("resolution", "size"), [(None, (80, 112)), (32, (32, 32))])
def test_pixels_are_compared_at_the_size_of_the_mask_or_the_one_asked_for(
    oblong_job, resolution, size
):
    split = load_split(oblong_job.dataset, "bottle", seed=oblong_job.seed)
    masks, maps = [], []
    for sample, anomaly_map in zip(
        split.test, independent_maps(independent_of(split)), strict=True
    ):
        image = Image.fromarray(anomaly_map.astype(np.float32))
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        sigma = [4 * side / 256 for side in size]
        maps.append(gaussian_filter(np.asarray(image, np.float64), sigma))
        mask = Image.fromarray(
            read_mask(sample.mask_path) if sample.mask_path else np.zeros((80, 112), bool)
        )
        masks.append(np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST)))
    job = replace(oblong_job, pixel_resolution=resolution)

    metrics = evaluate(job).metrics

    truth, scores = np.ravel(masks), np.ravel(maps)
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
    assert metrics["pixel_average_precision"] == pytest.approx(
        average_precision_score(truth, scores), abs=1e-3
    )
    assert metrics["aupro"] == pytest.approx(
        float(naive_aupro(*split_pixels(masks, np.round(maps, 2)), Fraction(3, 10))), abs=0.02
    )


def test_a_second_run_gives_the_same_bits_from_the_cache(job):
    first, second = evaluate(job), evaluate(job)
    assert (first.scores, first.metrics) == (second.scores, second.metrics)


def test_a_second_sweep_never_runs_the_backbone(job, monkeypatch):
    """Another seed, other components, other models and every localizer, after `none` alone."""
    calls = []
    build = engines.build_engine

    def counting(*args, **settings):
        engine = build(*args, **settings)
        return lambda images: calls.append(len(images)) or engine(images)

    monkeypatch.setattr(reader, "build_engine", counting)
    evaluate(replace(job, localizer="none"))
    assert calls
    calls.clear()
    models = [replace(job.model, params={"n_components": k}) for k in (2, 3, 5)]
    models += [ModelConfig(name, f"dfkde.baselines:{name}") for name in ("Gaussian", "KNN")]
    models += [ModelConfig("residual", "dfkde.density:DFKDEResidual", {"n_components": 4})]
    for localizer in LOCALIZERS:
        for model in models:
            evaluate(replace(job, seed=1, model=model, localizer=localizer))
    assert not calls


def test_f1_at_a_threshold_of_held_out_training_scores(job, split):
    record = evaluate(replace(job, threshold_quantile=0.9))
    features = independent_features(split.train).mean(axis=(2, 3))
    held_out = np.empty(len(features))
    for rest, fold in KFold(10, shuffle=True, random_state=job.seed).split(features):
        pca = PCA(4, svd_solver="full").fit(features[rest])
        kde = gaussian_kde(pca.transform(features[rest]).T)
        held_out[fold] = -kde.logpdf(pca.transform(features[fold]).T)
    above = np.sort(held_out)[math.ceil(0.9 * len(held_out)) - 1]
    labels = [s.anomalous for s in record.scores]
    expected = f1_score(labels, [s.score > above for s in record.scores])
    assert record.metrics["image_f1_at"] == pytest.approx(expected, abs=1e-12)
    assert 0 < record.metrics["image_f1_at"] <= record.metrics["image_f1_max"]
    assert "image_f1_at" not in evaluate(job).metrics
