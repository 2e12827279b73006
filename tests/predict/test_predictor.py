"""What a trained detector promises: the same bits anywhere, a threshold from training alone."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from scipy.stats import gaussian_kde, percentileofscore
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold

from dfkde import DFKDE, TrainedDetector, localizer, render
from dfkde.registry import TrustError
from harness.config import ModelConfig
from harness.data.load import dataset_settings
from harness.experiment import measure
from harness.fitting import fit
from harness.predict import QUANTILE, Prediction, Predictor
from harness.predict.drawing import overlay, with_contours
from harness.predict.predictor import REQUIRED, trained
from harness.record import Stages
from tests.data.cases import twelve_bits
from tests.predict.conftest import TRUSTED, environment
from tests.saved import rewrite, touching

SCORE_AGAIN = """
import json, sys
from pathlib import Path
from dfkde import TrainedDetector
from harness.predict.predictor import Predictor
predictor = Predictor(TrainedDetector.load(Path(sys.argv[1]), trusted=["tests.tiny:build"]))
found = list(predictor.predict(map(Path, sys.argv[2:]), maps=True))
print(json.dumps([[one.score, one.anomaly_map.tolist()] for one in found]))
"""


def test_a_fresh_process_gives_the_same_bits(detector, split, tmp_path):
    paths = [sample.path for sample in split.test[:3]]
    here = [
        [one.score, one.anomaly_map.tolist()]
        for one in Predictor(detector).predict(paths, maps=True)
    ]
    detector.save(tmp_path / "detector")
    command = [sys.executable, "-c", SCORE_AGAIN, tmp_path / "detector", *paths]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment(OMP_NUM_THREADS="2")
    )
    assert json.loads(done.stdout) == here


@pytest.mark.parametrize("localizer", ["occlusion", "patch_density", "uniform"])
def test_scores_and_maps_are_those_of_the_evaluation(small_job, split, localizer):
    fitted = fit(replace(small_job, localizer=localizer))
    record = measure(fitted, Stages())
    found = list(Predictor(trained(fitted)).predict([s.path for s in split.test], maps=True))
    # One image at a time or all at once may differ in the last bits of a matrix product.
    expected = [score.score for score in record.scores]
    np.testing.assert_allclose([one.score for one in found], expected, rtol=1e-9)
    for one, feature_map in zip(found, fitted.reader.maps(split.test), strict=True):
        np.testing.assert_array_equal(one.anomaly_map, fitted.localizer.anomaly_map(feature_map))


def test_a_command_as_backbone_is_not_run(detector, tmp_path):
    detector.save(tmp_path / "detector")
    rewrite(tmp_path / "detector", touching(tmp_path / "marker"))
    with pytest.raises(TrustError, match="asks for 'os:system'"):
        Predictor(TrainedDetector.load(tmp_path / "detector", trusted=[TRUSTED]))
    assert not (tmp_path / "marker").exists()


def test_a_crop_is_applied_and_kept(small_job, split, tmp_path):
    fitted = fit(replace(small_job, center_crop=40))
    trained(fitted).save(tmp_path / "detector")
    again = Predictor(TrainedDetector.load(tmp_path / "detector", trusted=[TRUSTED]))
    found = list(again.predict([s.path for s in split.test], maps=True))
    expected = [score.score for score in measure(fitted, Stages()).scores]
    np.testing.assert_allclose([one.score for one in found], expected, rtol=1e-9)
    whole = Predictor(trained(fit(small_job))).predict([s.path for s in split.test])
    assert not np.isclose(expected, [one.score for one in whole]).any()


@pytest.mark.parametrize("name", REQUIRED)
def test_a_detector_that_does_not_say_how_images_are_read_is_refused(detector, name):
    inputs = {key: value for key, value in detector.inputs.items() if key != name}
    with pytest.raises(ValueError, match=rf"inputs must hold .*, got none of \['{name}'\]"):
        Predictor(replace(detector, inputs=inputs))


def test_a_score_depends_on_no_other_image(detector, split):
    paths = [sample.path for sample in split.test]
    predictor = Predictor(detector)
    forward = [one.score for one in predictor.predict(paths)]
    backward = [one.score for one in predictor.predict(paths[::-1])]
    alone = [next(predictor.predict([path])).score for path in paths]
    assert forward == backward[::-1] == alone


def test_training_scores_are_of_models_that_did_not_see_the_image(fitted, detector):
    """Each is the score by PCA and KDE of other libraries, fitted on nine tenths of the images."""
    train = fitted.train.astype(np.float64)
    folds = KFold(10, shuffle=True, random_state=fitted.job.seed)
    for rest, held_out in folds.split(train):
        pca = PCA(4, svd_solver="full").fit(train[rest])
        kde = gaussian_kde(pca.transform(train[rest]).T)
        expected = -kde.logpdf(pca.transform(train[held_out]).T)
        np.testing.assert_allclose(detector.train_scores[held_out], expected, rtol=1e-9)


def test_nearest_neighbour_does_not_find_the_image_itself(small_job):
    """A threshold of zero, the distance to itself, would call every image anomalous."""
    detector = trained(fit(replace(small_job, model=ModelConfig("knn", "dfkde.baselines:KNN"))))
    assert min(detector.train_scores) > 0


@pytest.mark.parametrize(
    ("quantile", "index"), [(0.05, 0), (0.5, 9), (0.9, 17), (0.95, 18), (0.99, 19), (1, 19)]
)
def test_threshold_is_a_training_score(detector, quantile, index):
    """Of 20 scores, the smallest that at least the share `quantile` does not exceed."""
    expected = sorted(detector.train_scores.tolist())[index]
    assert Predictor(detector).threshold(quantile) == expected


@pytest.mark.parametrize("quantile", [0, -0.1, 1.01, float("nan")])
def test_quantile_out_of_range(detector, quantile):
    with pytest.raises(ValueError, match=r"quantile must be above 0 and at most 1, got"):
        Predictor(detector).threshold(quantile)


def test_a_score_on_the_threshold_is_normal():
    assert Prediction(1.5).verdict(1.5) == "normal"
    assert Prediction(np.nextafter(1.5, 2)).verdict(1.5) == "anomalous"
    assert Prediction(error="torn").verdict(1.5) is None


def test_without_localizer_there_are_no_maps(small_job, split):
    detector = trained(fit(replace(small_job, localizer="none")))
    [found] = Predictor(detector).predict([split.test[0].path], maps=True)
    assert found.score is not None
    assert found.anomaly_map is None


def test_another_backbone_is_refused(detector):
    other = replace(detector, backbone=replace(detector.backbone, digest="0" * 64))
    with pytest.raises(ValueError, match="backbone"):
        Predictor(other)


@pytest.mark.parametrize("engine", [None, "openvino"])
def test_another_forward_is_refused_with_any_engine(detector, monkeypatch, engine):
    """Its weights are the same, so that they do not differ."""
    monkeypatch.setattr(torch.nn.Tanh, "forward", lambda self, x: torch.sin(x))
    with pytest.raises(ValueError, match=r"must compute what it did in training, network SHA-256"):
        Predictor(detector, engine=engine)


def test_other_libraries_record_a_network_otherwise_and_that_is_said(detector, caplog):
    versions = ["torch 1.0", *detector.inputs["versions"][1:]]
    other = detector.inputs | {"versions": versions, "network_digest": "0" * 64}
    Predictor(replace(detector, inputs=other))
    assert "not checked what the network computes" in caplog.text


def test_another_engine_is_said(detector, split, caplog):
    inputs = detector.inputs | {"versions": ["torch 1.0", "pillow 1.0"]}
    Predictor(replace(detector, inputs=inputs))
    assert "trained with versions ['torch 1.0', 'pillow 1.0'], runs with" in caplog.text


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig("dfkde_residual", "dfkde.density:DFKDEResidual", {"n_components": 4}),
        ModelConfig("knn", "dfkde.baselines:KNN"),
        ModelConfig("gaussian", "dfkde.baselines:Gaussian"),
        ModelConfig("constant", "dfkde.baselines:Constant"),
    ],
    ids=lambda model: model.name,
)
def test_every_model_reads_back_to_the_same_bits(small_job, split, model, tmp_path):
    detector = trained(fit(replace(small_job, model=model)))
    detector.save(tmp_path / "detector")
    paths = [sample.path for sample in split.test[:4]]
    before = [one.score for one in Predictor(detector).predict(paths)]
    again = Predictor(TrainedDetector.load(tmp_path / "detector", trusted=[TRUSTED]))
    assert [one.score for one in again.predict(paths)] == before


@pytest.mark.parametrize("module", ["harness.predict", "harness.predict.predictor"])
def test_the_code_in_models_that_are_saved_finds_what_it_imports(module):
    """MLflow copies `mlflow_model.py` into each model: older ones take names from these."""
    found = [getattr(import_module(module), name) for name in ("Predictor", "QUANTILE")]
    assert found == [Predictor, QUANTILE]


def test_overlay_leaves_alone_what_normal_images_reach():
    image = np.full((64, 64, 3), 90, dtype=np.uint8)
    drawn = overlay(image, np.full((8, 8), 5.0), scale=(5.0, 13.0))
    np.testing.assert_array_equal(drawn, image)


def test_overlay_is_hotter_the_further_a_map_exceeds_them():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    positions = np.zeros((8, 8))
    positions[:, :4], positions[:, 4:] = 7.0, 500.0
    drawn = overlay(image, positions, scale=(5.0, 13.0)).astype(int)
    # Red of the reddest colour, at 60 % opacity; towards yellow where it is less.
    assert drawn[32, 63].tolist() == [153, 0, 0]
    assert 0 < drawn[32, 0, 0] < 153
    assert drawn[32, 0, 1] > 0


def test_overlay_where_all_training_positions_are_alike():
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    same = overlay(image, np.zeros((4, 4)), scale=(0.0, 0.0))
    np.testing.assert_array_equal(same, image)
    assert overlay(image, np.ones((4, 4)), scale=(0.0, 0.0)).max() == 153


def test_images_are_decoded_as_in_training(small_job, tmp_path):
    twelve_bits(tmp_path / "own")
    dataset = dataset_settings("folder", root=str(tmp_path / "own"))
    job = replace(small_job, dataset=replace(dataset, bits=12), category="all", n_train=None)
    fitted = fit(job)
    detector = trained(fitted)
    detector.save(tmp_path / "detector")
    loaded = TrainedDetector.load(tmp_path / "detector", trusted=[TRUSTED])
    found = Predictor(loaded).predict([sample.path for sample in fitted.split.test])
    expected = [score.score for score in measure(fitted, Stages()).scores]
    np.testing.assert_allclose([one.score for one in found], expected, rtol=1e-9)
    del detector.inputs["decoding"]
    other = Predictor(detector).predict([sample.path for sample in fitted.split.test])
    assert not np.allclose([one.score for one in other], expected)


def test_a_detector_of_usual_images_is_saved_as_before(detector):
    assert "decoding" not in detector.inputs


def test_contours_are_where_the_map_crosses_the_threshold():
    image = np.full((64, 64, 3), 90, dtype=np.uint8)
    positions = np.zeros((8, 8))
    positions[2:6, 2:6] = 10.0
    drawn = with_contours(image, positions, threshold=5.0)
    changed = (drawn != image).any(axis=2)
    above = render(positions, size=(64, 64)) > 5.0
    inner = binary_erosion(above, border_value=1)
    np.testing.assert_array_equal(changed, above & ~inner)
    assert (image == 90).all()


def test_map_values_are_of_models_that_did_not_see_the_image(small_job):
    """The maxima of occlusion maps by models of nine tenths, in the order of the folds."""
    fitted = fit(small_job)
    maps = []
    for rest, held_out in KFold(10, shuffle=True, random_state=42).split(fitted.train):
        model = DFKDE(4).fit(fitted.train[rest])
        feature_maps = list(fitted.reader.maps(fitted.split.train))
        locate = localizer("occlusion").fit(
            model, fitted.train[rest], [feature_maps[k] for k in rest]
        )
        maps += [locate.anomaly_map(feature_maps[k]) for k in held_out]
    expected = [np.median(maps), *(one.max() for one in maps)]
    predictor = Predictor(trained(fitted))
    np.testing.assert_allclose(predictor.detector.inputs["map_values"], expected, rtol=1e-9)
    assert predictor.map_threshold(0.95) == sorted(predictor.detector.inputs["map_values"][1:])[18]
    low, high = predictor.map_scale
    assert low == predictor.map_threshold()
    np.testing.assert_allclose((high - expected[0]) / (low - expected[0]), 3)


def test_percentiles_agree_with_thresholds(detector):
    """At quantile q, the percentile of an image is at least 100 q where it is called anomalous."""
    predictor = Predictor(detector)
    scores = np.sort(detector.train_scores)
    for score in [*scores, *np.nextafter(scores, np.inf), -1e9, 1e9]:
        percentile = predictor.percentile(score)
        assert percentile == percentileofscore(detector.train_scores, score, kind="strict")
        for quantile in (0.05, 0.5, 0.95, 1):
            above = score > predictor.threshold(quantile)
            assert above == (percentile >= 100 * quantile)


@pytest.mark.parametrize(("n", "quantile"), [(20, 0.95), (209, 0.95), (209, 0.99), (20, 1)])
def test_false_alarms_are_those_of_repeated_draws(detector, n, quantile):
    """Uniform scores: the share above a threshold is one minus the threshold."""
    rng = np.random.default_rng(0)
    drawn = rng.random((20_000, n))
    shares = 1 - np.quantile(drawn, quantile, axis=1, method="inverted_cdf")
    found = Predictor(replace(detector, train_scores=drawn[0])).false_alarms(quantile)
    np.testing.assert_allclose(found, np.quantile(shares, [0.05, 0.95]), atol=0.003)
