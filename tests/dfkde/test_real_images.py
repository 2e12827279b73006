"""The numbers that real images gave, held from below: EfficientNet-Lite0 on MVTec AD's bottle."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from dfkde import DFKDE, DFKDEResidual, FeatureExtractor, load_backbone, localizer, render

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DFKDE_TEST_DATA" not in os.environ, reason="DFKDE_TEST_DATA is not set"),
]
SIZE = (256, 256)


def image(path):
    resized = Image.open(path).convert("RGB").resize(SIZE, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None] / 255


def gt_mask(path):
    mask = path.parents[2] / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
    if not mask.exists():
        return np.zeros(SIZE, dtype=bool)
    return np.array(Image.open(mask).resize(SIZE, Image.Resampling.NEAREST)) > 0


@pytest.fixture(scope="module")
def bottle():
    module = load_backbone(
        "dfkde.backbones.efficientnet_lite:efficientnet_lite", arguments={}, weights=None
    )
    extractor = FeatureExtractor(module, ["bn2"])
    root = Path(os.environ["DFKDE_TEST_DATA"]) / "mvtec_ad" / "bottle"
    paths = {split: sorted(root.glob(f"{split}/*/*.png")) for split in ("train", "test")}
    with torch.inference_mode():
        maps = {
            split: torch.cat([extractor(image(path))[1] for path in paths[split]]).numpy()
            for split in paths
        }
    return maps, paths["test"]


def test_published_numbers_on_bottle(bottle):
    maps, test_paths = bottle
    pooled = {split: one.mean(axis=(2, 3)) for split, one in maps.items()}
    labels = [path.parent.name != "good" for path in test_paths]
    assert len(labels) == 83
    scores = DFKDE().fit(pooled["train"]).anomaly_score(pooled["test"])
    assert len(np.unique(scores)) == 83
    assert roc_auc_score(labels, scores) >= 0.98
    residual = DFKDEResidual().fit(pooled["train"]).anomaly_score(pooled["test"])
    assert roc_auc_score(labels, residual) >= 0.995


@pytest.mark.parametrize(("name", "least"), [("occlusion", 0.93), ("patch_density", 0.95)])
def test_pixels_of_bottle(bottle, name, least):
    maps, test_paths = bottle
    train = maps["train"].mean(axis=(2, 3))
    fitted = localizer(name).fit(DFKDE().fit(train), train, maps["train"])
    scores = np.stack([render(fitted.anomaly_map(one), size=SIZE) for one in maps["test"]])
    masks = np.stack([gt_mask(path) for path in test_paths])
    assert roc_auc_score(masks.ravel(), scores.astype(np.float32).ravel()) >= least
