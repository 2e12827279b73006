"""On real bottles a defect stands out of its surroundings, by a scale of normal images alone."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from dfkde import render
from harness.config import BackboneConfig, FeaturesConfig, ModelConfig
from harness.data import load_split, read_mask
from harness.fitting import fit
from harness.predict import Predictor
from harness.predict.predictor import trained
from tests.conftest import tiny_job

ROOT = Path(__file__).resolve().parent.parent.parent
SIDE = 225


def shares(predictor, sample):
    """The share of hot pixels outside the mask, and that of coloured pixels inside.

    Hot is the upper half of the scale, and coloured all of it.
    """
    [found] = predictor.predict([sample.path], maps=True)
    low, high = predictor.map_scale
    rendered = render(found.anomaly_map, size=(SIDE, SIDE))
    gt_mask = read_mask(sample.mask_path, sample.mask_digest).astype(np.float32)
    inside = cv2.resize(gt_mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 0
    return (rendered[~inside] > (low + high) / 2).mean(), (rendered[inside] > low).mean()


@pytest.fixture(scope="module")
def real_job(real_images, tmp_path_factory):
    backbone = yaml.safe_load((ROOT / "conf/backbone/efficientnet_lite0.yaml").read_text())
    cache = tmp_path_factory.mktemp("cache")
    job = tiny_job(real_images / "mvtec_ad_256", cache)
    return replace(
        job,
        backbone=BackboneConfig(**backbone),
        model=ModelConfig("dfkde", "dfkde.density:DFKDE"),
        features=FeaturesConfig(engine="torch", cache=str(cache)),
        image_size=256,
        n_train=30,
    )


def test_less_than_a_tenth_of_the_surroundings_is_in_the_upper_half(real_job):
    split = load_split(real_job.dataset, "bottle", seed=42)
    few = [sample for sample in split.test if sample.anomalous][::10]
    predictor = Predictor(trained(fit(real_job)))
    hot, coloured = zip(*(shares(predictor, sample) for sample in few), strict=True)
    assert np.median(hot) < 0.1
    assert np.median(coloured) > 0.5
