"""Jobs whose model scores the maps of layers: as other jobs, from the settings to a prediction."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import harness.run  # noqa: F401 - registers the schema
from dfkde import PaDiM, TrainedDetector, render
from harness.checks import check_jobs, check_settings
from harness.config import ModelConfig, all_stages, conf_dir, name_differences, share_extraction
from harness.experiment import evaluate, identify, settings
from harness.fitting import anomaly_maps, features_of, fit, folds, held_out, reader_of
from harness.metrics import pixel_auroc
from harness.predict import Predictor
from harness.predict.__main__ import main
from harness.predict.predictor import trained

LAYERS = ["features.0", "features"]
PADIM = ModelConfig("padim", "dfkde.padim:PaDiM", {"n_features": 8}, {"tiny": LAYERS})


@pytest.fixture
def map_job(job):
    return replace(job, model=PADIM, localizer="none", n_train=20)


def config_of(command):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_object(compose("config", command.split()))


def test_the_record_is_that_of_the_model_on_the_maps(map_job):
    record = evaluate(map_job)
    fitted = fit(map_job)
    train, test = (
        list(fitted.reader.layer_maps(samples, LAYERS))
        for samples in (fitted.split.train, fitted.split.test)
    )
    model = PaDiM(8).fit(train)
    assert [one.score for one in record.scores] == model.anomaly_score(test).tolist()
    own = [model.score(one).anomaly_map for one in test]
    maps = [render(one, size=(64, 64)) for one in own]
    for found, expected in zip(anomaly_maps(fitted), own, strict=True):
        np.testing.assert_array_equal(found, expected)
    resized = replace(map_job, pixel_resolution=64)
    from harness.fitting import gt_mask_of
    from harness.metrics import resize_mask

    masks = [resize_mask(gt_mask_of(s, resized), (64, 64)) for s in fitted.split.test]
    assert evaluate(resized).metrics["pixel_auroc"] == pytest.approx(pixel_auroc(masks, maps))


def test_maps_that_are_not_kept_give_the_same_record(map_job):
    fresh = replace(map_job, features=replace(map_job.features, maps=False))
    one, other = evaluate(map_job), evaluate(fresh)
    assert one.scores == other.scores
    assert one.metrics == other.metrics


def test_training_images_are_held_out(map_job):
    fitted = fit(map_job)
    assert (held_out(fitted, maps=False)[0] > fitted.model.anomaly_score(fitted.train)).all()
    assert evaluate(replace(map_job, threshold_quantile=0.9)).metrics.keys() > {"image_auroc"}


def test_a_broken_map_names_its_image(map_job, monkeypatch):
    from harness.data import DataError
    from harness.features import reader

    monkeypatch.setattr(
        reader.FeatureReader,
        "layer_maps",
        lambda self, samples, layers: (
            (np.full((1, 2, 2), np.nan if k == 3 else 1.0),) for k in range(len(samples))
        ),
    )
    broken = replace(map_job, model=replace(PADIM, params={"n_features": 1}))
    with pytest.raises(DataError, match=r"003\.png: features must be finite, got NaN"):
        evaluate(broken)


def test_a_prediction_is_the_score_of_the_evaluation(map_job, tmp_path):
    fitted = fit(map_job)
    detector = trained(fitted)
    detector.save(tmp_path / "detector")
    loaded = TrainedDetector.load(tmp_path / "detector", trusted=["tests.tiny:build"])
    assert loaded.backbone.maps_of == LAYERS
    rest, held_out = next(folds(fitted))
    first = next(iter(fitted.reader.layer_maps([fitted.split.train[held_out[0]]], LAYERS)))
    drawn = render(rest.model.score(first).anomaly_map, size=(map_job.image_size,) * 2)
    median, *maxima = loaded.inputs["map_values"]
    assert median < min(maxima)
    assert len(maxima) == 20
    assert maxima[0] == pytest.approx(drawn.max(), rel=1e-9)
    record = evaluate(map_job)
    paths = [sample.path for sample in fitted.split.test]
    out = tmp_path / "out"
    command = [f"model={tmp_path / 'detector'}", f"images={paths[0]}", f"out={out}"]
    assert main([*command, "trusted=tests.tiny:build", "contours=true", "maps=true"]) == 0
    assert len(list(out.rglob("heatmaps/*.png"))) == len(list(out.rglob("maps/*.npy"))) == 1
    found = list(Predictor(loaded, cache=tmp_path / "own").predict(paths, maps=True))
    assert [one.score for one in found] == [one.score for one in record.scores]
    for one, expected in zip(found, anomaly_maps(fitted), strict=True):
        np.testing.assert_array_equal(one.anomaly_map, expected)
    assert next(iter(Predictor(loaded).predict(paths[:1]))).anomaly_map is None


def test_a_sweep_extracts_once(map_job, job):
    one = replace(map_job, model=replace(PADIM, name="one", layers={"tiny": LAYERS[:1]}))
    jobs = share_extraction([replace(job, n_train=20), map_job, one])
    assert {j.pass_layers for j in jobs} == {("features", "features.0")}
    records = [evaluate(each) for each in jobs]
    reader = reader_of(jobs[0])
    assert reader.n_extracted == records[0].n_train + len(records[0].scores)
    alone = evaluate(replace(map_job, features=replace(map_job.features, cache=None)))
    assert alone.scores == records[1].scores
    assert identify(jobs[1]) == identify(map_job)


def test_without_a_model_on_pooled_features_their_maps_are_not_kept(map_job):
    fitted = fit(share_extraction([map_job])[0])
    whole = f"{'?' * 64}.maps"
    assert not list(fitted.reader._cache.rglob(whole))
    pooled = replace(map_job, model=replace(PADIM, layers={}), localizer="occlusion")
    both = share_extraction([map_job, pooled])
    features_of(both[0], fitted.reader, fitted.split.test, maps=True)
    assert list(fitted.reader._cache.rglob(whole))


@pytest.mark.parametrize("model", ["patch_kde", "padim", "patchcore"])
def test_the_identity_holds_the_layers_and_the_resolved_localizer(model, map_job):
    config = config_of(f"category=bottle model={model}")
    job = config.job()
    assert config.localizer is None
    assert job.localizer == "none"
    assert config_of("category=bottle").job().localizer == "occlusion"
    assert config_of("category=bottle localizer=uniform").job().localizer == "uniform"
    named = replace(map_job, model=replace(config.model, layers={"tiny": LAYERS}))
    named.model.params.update({"n_features": 8} if model == "padim" else {})
    found = settings(named, reader_of(named).spec)
    assert found["model.layers"] == "features.0,features"
    assert found["localizer"] == "none"


def test_the_identity_depends_on_the_layers(map_job):
    others = [replace(map_job, model=replace(PADIM, layers={"tiny": one}))
              for one in (LAYERS, LAYERS[::-1], LAYERS[:1])]  # fmt: skip
    assert len({*map(identify, others)}) == 3
    assert identify(others[0]) == identify(map_job)
    apart = replace(map_job, model=replace(PADIM, layers={"tiny": LAYERS, "other": ["a"]}))
    assert identify(apart) == identify(map_job)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("localizer=occlusion", "localizer must be null for padim, which makes its own anomaly"),
        (
            "backbone=timm backbone.arguments.architecture=vgg11 backbone.layers=[features]",
            "must name the layers of the backbone 'vgg11' (+model.layers.vgg11=[...])",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(command, message):
    command = f"category=bottle model=padim backbone=efficientnet_lite0 {command}"
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        check_settings([config_of(command)])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("model=patchcore model.params.n_neighbors=1", "n_neighbors must be an integer of at"),
        ("model=patchcore model.params.max_patches=80", "n_neighbors must be at most the size of"),
        ("model=padim model.params.regularisation=inf", "regularisation must be above 0, got inf"),
        ("model=padim model.params.sigma=-1", "sigma must be at least 0, got -1"),
        ("model=patch_kde model.params.n_components=1.5", "n_components must be an integer of at"),
        ("+model.layers.efficientnet_lite0=[blocks.2]", "model.layers must be empty for dfkde."),
    ],
)
def test_a_wrong_parameter_is_refused_before_a_sweep(command, message):
    command = f"category=bottle backbone=efficientnet_lite0 {command}"
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        check_jobs([config_of(command)], local=False)
    assert "\n" not in str(raised.value)


def test_model_and_layers_must_fit(map_job, job):
    with pytest.raises(
        ValueError, match=r"model.layers must name layers by backbone for dfkde.padim"
    ):
        evaluate(replace(map_job, model=replace(PADIM, layers={})))
    wrong = replace(job.model, layers={"tiny": LAYERS})
    with pytest.raises(ValueError, match=r"model.layers must be empty for dfkde.density:DFKDE"):
        evaluate(replace(map_job, model=wrong))


def test_names_of_a_sweep_do_not_repeat_what_the_model_implies(map_job, job):
    jobs = name_differences([job, map_job, replace(map_job, n_train=10)])
    assert [one.swept for one in jobs] == ["n_train=null", "n_train=20", "n_train=10"]


def test_a_stored_job_has_no_trace_of_its_sweep(map_job):
    from harness.tracking.contents import record_files

    shared = share_extraction([map_job])[0]
    files = [record_files(one, evaluate(one))["job.yaml"] for one in (map_job, shared)]
    assert files[0] == files[1]
    assert b"pass_" not in files[0]
    assert asdict(map_job) != asdict(shared)


def test_layers_that_are_no_stages_have_a_pass_and_a_section_of_their_own(map_job):
    """An engine cannot fuse what it must return: the pooled features differ in their last bits."""
    inner = replace(map_job, model=replace(PADIM, layers={"tiny": ["features.0.conv"]}))
    pooled = replace(map_job, model=replace(PADIM, layers={}), localizer="occlusion")
    shared = share_extraction([map_job, inner, pooled])
    assert [job.pass_layers for job in shared] == [tuple(sorted(LAYERS)), (), tuple(sorted(LAYERS))]
    assert [all_stages(job.map_layers) for job in shared] == [True, False, True]
    assert not all_stages(["layer1", "blocks.2.0.conv_pwl"])
    assert all_stages(["layer1", "blocks.2", "stages.3", "features"])
