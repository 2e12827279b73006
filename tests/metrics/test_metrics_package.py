"""The registry, the imports, the resolution, the regions and the benchmark."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import harness.metrics
from harness.metrics import HEADLINE, METRICS, evaluation_size, resize_mask
from harness.metrics.ranks import label_regions


def test_every_metric_is_a_function_of_that_name():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert callable(getattr(harness.metrics, name))
        assert metric.display.lower().startswith(metric.level)


def test_the_headline():
    displays = [METRICS[name].display for name in HEADLINE]
    assert displays == ["Image AUROC", "Image F1", "Pixel AUROC", "Pixel AUPRO"]
    assert len({metric.display for metric in METRICS.values()}) == len(METRICS)


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_heavy_is_imported_before_it_is_needed():
    run_python("""
import sys
import harness.metrics
heavy = {"cv2", "sklearn", "scipy", "torch", "pandas"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import numpy as np
harness.metrics.image_metrics([0, 1], [0.1, 0.2])
images = lambda: [("a", np.zeros((2, 2), bool), np.ones((2, 2)))]
assert harness.metrics.pixel_metrics(images).undefined
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""")


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (20, 31)])
def test_masks_are_resized_to_the_nearest_pixel_centre(size):
    gt_mask = np.random.default_rng(0).random((13, 17)) > 0.5
    height, width = size
    image = Image.fromarray(gt_mask.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    assert np.array_equal(resize_mask(gt_mask, size), np.asarray(image) > 0)


def test_a_mask_of_the_right_size_is_untouched():
    gt_mask = np.eye(4, dtype=bool)
    assert resize_mask(gt_mask, (4, 4)) is gt_mask


def test_the_resolution_is_native_unless_it_is_named():
    assert evaluation_size((600, 800)) == (600, 800)
    assert evaluation_size((600, 800), 256) == (256, 256)
    with pytest.raises(ValueError, match="pixel_resolution must be at least 1 or None"):
        evaluation_size((600, 800), 0)


def test_regions_of_real_masks_are_those_of_scipy():
    root = Path(os.environ.get("DFKDE_TEST_DATA", "")) / "mvtec_ad_256/pill/ground_truth"
    paths = sorted(root.glob("*/*.png"))
    if "DFKDE_TEST_DATA" not in os.environ:
        pytest.skip("DFKDE_TEST_DATA is not set")
    assert paths
    for path in paths:
        gt_mask = np.asarray(Image.open(path)) > 0
        box, ours = label_regions(gt_mask)
        theirs, count = ndimage.label(gt_mask, structure=np.ones((3, 3)))
        assert np.array_equal(ours > 0, gt_mask[box])
        assert (ours > 0).sum() == gt_mask.sum()
        # Same partition: there are as many pairs of labels as regions on either side.
        pairs = set(zip(theirs[box][ours > 0], ours[ours > 0], strict=True))
        assert len(pairs) == count == ours.max()


@pytest.mark.parametrize(
    ("case", "dtype"), [("ours", "float32"), ("sklearn_auroc", "float64"), ("streamed", "float32")]
)
def test_the_benchmark_runs(case, dtype):
    command = [sys.executable, "-m", "benchmarks.metrics", "--case", case, "--dtype", dtype]
    command += ["--shape", "8", "40", "30"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.5 < json.loads(done.stdout)["values"]["pixel_auroc"] <= 1
