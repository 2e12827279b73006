"""DFKDE on real photographs: the numbers that a user should see."""

from dataclasses import replace

import pytest

from harness.config import BackboneConfig
from harness.experiment import evaluate
from harness.fitting import split_of
from tests.conftest import dataset_config


@pytest.fixture
def bottle_job(elpv_job, real_images):
    """Return the job of the original `bottle` with EfficientNet-Lite0."""
    dataset = replace(dataset_config("mvtec"), root=str(real_images / "mvtec_ad"))
    return replace(elpv_job, dataset=dataset, category="bottle")


def of_few(job, *, train, test):
    """Evaluate a job on each so many of its training and test images, without a translation."""
    job = replace(job, features=replace(job.features, engine="torch"))
    split = split_of(job)
    few = replace(split, train=split.train[::train], test=split.test[::test])
    return evaluate(job, split=few)


def test_few_bottles(bottle_job):
    record = of_few(bottle_job, train=8, test=8)
    assert record.official
    assert (record.n_train, record.n_test_normal, record.n_test_anomalous) == (27, 3, 8)
    assert record.metrics["image_auroc"] >= 0.95
    assert record.metrics["pixel_auroc"] >= 0.9


def test_few_cells_of_elpv(elpv_job):
    record = of_few(elpv_job, train=8, test=12)
    assert (record.n_train, record.n_test_normal, record.n_test_anomalous) == (44, 17, 29)
    assert record.metrics["image_auroc"] == pytest.approx(0.88, abs=0.04)
    assert record.undefined["aupro"] == "elpv/mono has no ground truth masks"


@pytest.mark.slow
def test_bottle_with_efficientnet_lite0(bottle_job):
    record = evaluate(bottle_job)
    assert record.official
    assert (record.n_train, record.n_test_normal, record.n_test_anomalous) == (209, 20, 63)
    assert record.metrics["image_auroc"] >= 0.98
    assert record.metrics["pixel_auroc"] >= 0.93
    assert record.metrics["aupro"] == pytest.approx(0.70, abs=0.02)


@pytest.mark.slow
def test_demo_cells_of_elpv(elpv_job):
    record = evaluate(elpv_job)
    assert record.metrics["image_auroc"] == pytest.approx(0.915, abs=0.005)
    assert record.undefined["aupro"] == "elpv/mono has no ground truth masks"


@pytest.mark.slow
def test_bottle_with_a_resnet50_of_2048_features(bottle_job, real_weights, monkeypatch):
    monkeypatch.syspath_prepend(real_weights)
    backbone = BackboneConfig(
        name="resnet50_v1",
        factory="resnet50_v1:build",
        layers=["layer4"],
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )
    record = evaluate(replace(bottle_job, backbone=backbone))
    assert record.metrics["image_auroc"] == pytest.approx(0.95, abs=0.01)
