"""The whole experiment against one written anew with other libraries."""

import hashlib
import math
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
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

from dfkde import Constant
from dfkde.choices import LOCALIZERS
from harness.config import FeaturesConfig, ModelConfig
from harness.data import DataError, load_split, read_mask
from harness.evaluate import evaluate, identify
from harness.features import FeatureReader, Recipe, engines, reader
from harness.fitting import fit
from harness.identity import identity, settings
from tests import tiny
from tests.metrics.test_metrics_definition import naive_aupro, split_pixels

ROOT = Path(__file__).resolve().parent.parent


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
def split(job):
    return load_split(job.dataset, job.category, seed=job.seed)


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
    """Maps of 19 and 10 positions a side for images of 76 pixels, on the coarser grid."""
    module = tiny.build().eval()
    images = [Image.open(sample.path).convert("RGB") for sample in samples]
    arrays = [np.asarray(image.resize((76, 76), Image.Resampling.BILINEAR)) for image in images]
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        fine = module.features[:1]((batch - 0.5) / 0.25)
        coarse = module.features((batch - 0.5) / 0.25)
    assert (fine.shape[-1], coarse.shape[-1]) == (19, 10)
    return np.concatenate([windows_mean(fine.double().numpy(), 10), coarse.double().numpy()], 1)


def test_several_layers_on_grids_that_do_not_divide(job, split):
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
    for sample, grid in zip(split.test, independent_grids(independent), strict=True):
        # PIL repeats the edge and aligns pixel centres; sigma is 4 px at 256, so 1 px at 64.
        image = Image.fromarray(grid.astype(np.float32))
        image = image.resize((crop, crop), Image.Resampling.BILINEAR)
        maps.append(gaussian_filter(np.asarray(image, np.float64), crop / 64))
        mask = read_mask(sample.mask_path) if sample.mask_path else np.zeros((64, 64), bool)
        masks.append(mask[edge : edge + crop, edge : edge + crop])
    return roc_auc_score(np.ravel(masks), np.ravel(maps))


def independent_grids(independent):
    """How far the score falls when a position shows its mean over the training images."""
    score, train, test = independent
    mean_map = train.mean(axis=0)
    for feature_map in test:
        whole = score(feature_map.mean(axis=(1, 2))[None])[0]
        grid = np.empty(feature_map.shape[1:])
        for y, x in np.ndindex(grid.shape):
            occluded = feature_map.copy()
            occluded[:, y, x] = mean_map[:, y, x]
            grid[y, x] = whole - score(occluded.mean(axis=(1, 2))[None])[0]
        yield grid


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
    for sample, grid in zip(split.test, independent_grids(independent_of(split)), strict=True):
        image = Image.fromarray(grid.astype(np.float32))
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


def test_record_tells_where_its_numbers_come_from(job, split):
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


def test_without_localizer_pixel_metrics_are_absent_with_the_reason(job):
    record = evaluate(replace(job, localizer="none"))
    assert "pixel_auroc" not in record.metrics
    assert record.undefined["pixel_auroc"] == "localizer=none makes no anomaly maps"


def test_pixel_resolution_changes_pixel_metrics_only(job):
    native, resized = evaluate(job), evaluate(replace(job, pixel_resolution=32))
    assert resized.scores == native.scores
    assert resized.metrics["pixel_auroc"] != native.metrics["pixel_auroc"]


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
@pytest.mark.parametrize("factory", ["dfkde.baselines:Constant", "tests.test_evaluate:Elsewhere"])
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


def test_identity_depends_on_what_determines_the_numbers_and_on_nothing_else(job, tmp_path):
    same = identify(job)
    assert same == identify(replace(job, features=replace(job.features, cache=str(tmp_path / "b"))))
    assert same == identify(replace(job, features=replace(job.features, workers=2)))
    moved = shutil.copytree(job.dataset.root, tmp_path / "moved")
    assert same == identify(replace(job, dataset=replace(job.dataset, root=str(moved))))
    others = [
        replace(job, seed=1),
        replace(job, category="grid"),
        replace(job, image_size=32),
        replace(job, center_crop=32),
        replace(job, localizer="none"),
        replace(job, n_train=20),
        replace(job, train_contamination=0.1),
        replace(job, dataset=replace(job.dataset, train_share=0.5)),
        replace(job, pixel_resolution=32),
        replace(job, threshold_quantile=0.9),
        replace(job, model=replace(job.model, params={"n_components": 5})),
        replace(job, model=replace(job.model, params={"n_components": 4, "random_state": 7})),
        replace(job, backbone=replace(job.backbone, mean=[0.4, 0.5, 0.5])),
        replace(job, features=replace(job.features, resize="float_antialias")),
    ]
    assert len({same, *map(identify, others)}) == len(others) + 1
    image = next((moved / job.category / "train" / "good").iterdir())
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    assert same != identify(replace(job, dataset=replace(job.dataset, root=str(moved))))


@pytest.fixture
def recipe():
    return Recipe(
        weights_digest="ab" * 32,
        layers=("features",),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        image_size=256,
        resize="pil",
        engine="torch",
        precision="fp32",
        device="cpu",
        batch=4,
        versions=(),
    )


def test_identity_depends_on_how_features_are_made(job, recipe):
    changes = [
        {},
        {"weights_digest": "ba" * 32},
        {"engine": "onnxruntime"},
        {"precision": "bf16"},
        {"device": "cuda"},
        {"layers": ("features", "0")},
        {"std": (0.25, 0.25, 0.5)},
    ]
    found = {identity(job, replace(recipe, **change), fingerprint="cd" * 32) for change in changes}
    assert len(found | {identity(job, recipe, fingerprint="dc" * 32)}) == len(changes) + 1


def test_identity_stays_what_it_was(job, recipe):
    """Runs are skipped by it: it changes with `SCHEMA_VERSION`, and with nothing else."""
    published = "dfb1f460b2d31f9bf94701cbf5d02588cc6f62659f91de12ad7c93268aa0fb3d"
    assert identity(replace(job, image_size=256), recipe, fingerprint="cd" * 32) == published


def test_seed_of_a_model_stands_for_itself_unless_it_is_another(job, recipe):
    seeded = replace(job, model=replace(job.model, params={"random_state": job.seed}))
    assert "model.random_state" not in settings(seeded, recipe)
    other = replace(job, model=replace(job.model, params={"random_state": 7}))
    assert settings(other, recipe)["model.random_state"] == "7"


def test_networks_own_normalisation_is_the_same_written_out(job, recipe):
    own = replace(job, backbone=replace(job.backbone, mean=None, std=None))
    assert settings(own, recipe) == settings(job, recipe)
    assert settings(own, recipe)["backbone.mean"] == "0.5,0.5,0.5"
    recipe = replace(recipe, mean=tuple(np.float32([0.485, 0.456, 0.406]).tolist()))
    assert settings(own, recipe)["backbone.mean"] == "0.485,0.456,0.406"


def test_which_folder_holds_the_normal_images_is_part_of_the_identity(job, recipe):
    folder = replace(job.dataset, reader="folder", normal_dir="a", abnormal_dir="b")
    swapped = replace(folder, normal_dir="b", abnormal_dir="a")
    one, other = (
        identity(replace(job, dataset=dataset), recipe, fingerprint="cd" * 32)
        for dataset in (folder, swapped)
    )
    assert one != other


def test_parameters_left_at_their_defaults_share_an_identity_with_the_same_values(job):
    by_default = replace(job, model=replace(job.model, params={}))
    written = replace(job, model=replace(job.model, params={"n_components": 16}))
    assert identify(by_default) == identify(written)


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
