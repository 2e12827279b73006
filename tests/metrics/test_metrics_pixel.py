"""Pixel-level metrics: hand-worked cases, scikit-learn, errors, memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from harness.metrics import (
    UndefinedMetricError,
    aupro,
    pixel_auroc,
    pixel_average_precision,
    pixel_f1_max,
    pixel_metrics,
    ranks,
)


def picture(text):
    """Mask and map of a drawing: `#7` is an anomalous pixel of score 7, `.7` a normal one."""
    cells = [line.split() for line in text.strip().splitlines()]
    gt_mask = np.array([[cell[0] == "#" for cell in row] for row in cells])
    return gt_mask, np.array([[float(cell[1:]) for cell in row] for row in cells], np.float32)


def test_two_regions_of_different_sizes_count_alike():
    gt_mask, anomaly_map = picture("""
        #8 .5 #6 #3 #1
        .7 .4 .2 .0 .0
    """)
    # Thresholds 8 | 7 | 6 | 5 | 4 | 3 | 2 | 1 | 0 over 6 normal pixels. The mean overlap of the
    # regions of 1 and 3 pixels is 1/2, from rate 1/6 on 1/2 + 1/6, from 3/6 on 1/2 + 2/6,
    # from 4/6 on 1.
    assert aupro([gt_mask], [anomaly_map], fpr_limit=1.0) == pytest.approx(
        1 / 6 * 1 / 2 + 2 / 6 * 4 / 6 + 1 / 6 * 5 / 6 + 2 / 6 * 1, abs=1e-15
    )
    # Cut at 1/4: half of the second stretch's first sixth.
    assert aupro([gt_mask], [anomaly_map], fpr_limit=0.25) == pytest.approx(
        4 * (1 / 6 * 1 / 2 + 1 / 12 * 4 / 6), abs=1e-15
    )


def test_pixels_that_touch_diagonally_are_one_region():
    joined, joined_map = picture("""
        #4 .3 .1
        .1 #2 #2
    """)
    # One region of 3: overlap 1/3 up to rate 1/3, where threshold 2 completes it.
    assert aupro([joined], [joined_map], fpr_limit=1.0) == pytest.approx(1 / 9 + 2 / 3, abs=1e-15)
    apart, apart_map = picture("""
        #4 .3 .1 .1
        .1 .1 #2 #2
    """)
    # Two regions: overlap 1/2 up to rate 1/5, then 1.
    assert aupro([apart], [apart_map], fpr_limit=1.0) == pytest.approx(1 / 10 + 4 / 5, abs=1e-15)


def test_stripes_of_400_by_7():
    # Columns of one score each: normal 6, 4, 2, 1 (400 pixels each) and regions of 400 and 800.
    columns = np.array([6, 5, 4, 3, 3, 2, 1], np.float32)
    gt_mask = np.tile([False, True, False, True, True, False, False], (400, 1))
    anomaly_map = np.tile(columns, (400, 1))
    # Overlap 0 up to rate 1/4, 1/2 up to rate 1/2, then 1.
    assert aupro([gt_mask], [anomaly_map], 1.0) == pytest.approx(1 / 8 + 1 / 2, abs=1e-15)
    assert aupro([gt_mask], [anomaly_map], 0.3) == pytest.approx(0.05 / 2 / 0.3, abs=1e-15)
    assert aupro([gt_mask], [anomaly_map], 0.2) == 0.0


def test_a_tie_that_straddles_the_limit_is_cut_on_its_line():
    gt_mask, anomaly_map = picture("#2 .2 .2 #1 .1 .0")
    # Rate 0 to 1/2 while overlap goes 0 to 1/2; at 1/4 it is 1/4.
    assert aupro([gt_mask], [anomaly_map], 0.25) == pytest.approx(1 / 8, abs=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_a_constant_map_knows_nothing(dtype):
    gt_masks = np.zeros((2, 5, 6), bool)
    gt_masks[0, 1:3, 1:4] = gt_masks[1, 4, 5] = True
    maps = np.full(gt_masks.shape, 7, dtype)
    assert pixel_auroc(gt_masks, maps) == 0.5
    assert aupro(gt_masks, maps) == pytest.approx(0.15, abs=1e-15)
    assert pixel_average_precision(gt_masks, maps) == pytest.approx(7 / 60, abs=1e-15)
    assert pixel_f1_max(gt_masks, maps) == (pytest.approx(14 / 67, abs=1e-15), 7.0)


def test_a_perfect_map():
    gt_mask, anomaly_map = picture("#3 #4 .1 .2")
    assert pixel_auroc([gt_mask], [anomaly_map]) == 1.0
    assert aupro([gt_mask], [anomaly_map]) == 1.0
    assert pixel_average_precision([gt_mask], [anomaly_map]) == 1.0
    assert pixel_f1_max([gt_mask], [anomaly_map]) == (1.0, 3.0)


def random_images(n_images=5, height=60, width=70, decimals=8, seed=7):
    rng = np.random.default_rng(seed)
    gt_masks = rng.random((n_images, height, width)) > 0.93
    gt_masks[0] = False
    maps = np.round(rng.normal(size=gt_masks.shape) + 1.2 * gt_masks, decimals)
    return gt_masks, maps.astype(np.float32)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), decimals=st.integers(0, 8), side=st.integers(4, 60))
def test_agrees_with_scikit_learn(seed, decimals, side):
    gt_masks, maps = random_images(height=side, decimals=decimals, seed=seed)
    truth, scores = gt_masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-30)
    assert pixel_auroc(gt_masks, maps) == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert pixel_average_precision(gt_masks, maps) == pytest.approx(
        average_precision_score(truth, scores), abs=1e-9
    )
    assert pixel_f1_max(gt_masks, maps).value == pytest.approx(f1.max(), abs=1e-9)


@pytest.mark.parametrize("outlier", [1e30, -1e30])
@pytest.mark.parametrize("anomalous", [False, True])
def test_an_outlier_weighs_one_pixel(outlier, anomalous):
    gt_masks, maps = random_images()
    where = tuple(np.argwhere(gt_masks == anomalous)[0])
    tame, wild = maps.copy(), maps.copy()
    tame[where], wild[where] = np.sign(outlier) * 50, outlier
    assert aupro(gt_masks, wild) == aupro(gt_masks, tame)
    assert pixel_auroc(gt_masks, wild) == pixel_auroc(gt_masks, tame)


def test_negative_zero_ties_with_zero_in_every_region():
    # Regions 0, 1, 2 with zeros of both signs: one tie, whatever the order of the regions.
    gt_mask = np.array([[True, False, True, False, True, False]])
    mixed = np.array([[0.0, -0.0, -0.0, 0.0, 0.0, -0.0]], np.float32)
    assert aupro([gt_mask], [mixed]) == pytest.approx(0.15, abs=1e-15)
    assert pixel_average_precision([gt_mask], [mixed]) == 0.5


def test_float32_and_float64_of_the_same_values_agree():
    gt_masks, maps = random_images(decimals=2)
    for metric in (aupro, pixel_auroc, pixel_average_precision, pixel_f1_max):
        assert metric(gt_masks, maps) == pytest.approx(
            metric(gt_masks, maps.astype(np.float64)), abs=1e-14
        )


def test_float64_differences_below_float32_are_ranked():
    gt_mask = np.array([[True, False]])
    assert pixel_auroc([gt_mask], [np.array([[1 + 1e-12, 1.0]])]) == 1.0


def test_maps_of_unlike_dtypes_are_ranked_together():
    gt_mask = np.array([[True, False]])
    maps = [np.array([[2, 1]], np.uint8), np.array([[1.5, 1.25]]), np.array([[2, 0]], np.float16)]
    assert pixel_auroc([gt_mask] * 3, maps) == 1.0


def test_pixel_metrics_are_the_single_functions():
    gt_masks, maps = random_images()
    images = [(str(i), *pair) for i, pair in enumerate(zip(gt_masks, maps, strict=True))]
    values = pixel_metrics(lambda: images, fpr_limit=0.1).values
    assert values == {
        "pixel_auroc": pixel_auroc(gt_masks, maps),
        "aupro": aupro(gt_masks, maps, 0.1),
        "pixel_average_precision": pixel_average_precision(gt_masks, maps),
        "pixel_f1_max": pixel_f1_max(gt_masks, maps).value,
    }


def test_inputs_are_left_as_they_were():
    gt_masks, maps = random_images()
    gt_masks.setflags(write=False)
    maps.setflags(write=False)
    before = maps.copy()
    aupro(gt_masks, maps)
    assert np.array_equal(maps, before)


def test_an_iterator_that_is_spent_is_refused():
    gt_masks, maps = random_images()
    once = iter([("a", gt_masks[1], maps[1])])
    with pytest.raises(ValueError, match=r"pairs must give the same images .* and then 0"):
        pixel_metrics(lambda: once)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_broken_the_second_time_is_refused(wrong):
    gt_masks, maps = random_images()
    broken = maps[2].copy()
    broken[tuple(np.argwhere(~gt_masks[2])[0])] = wrong
    passes = iter([maps, [*maps[:2], broken, *maps[3:]]])
    with pytest.raises(ValueError, match=r"pairs must give the same images .* not finite"):
        pixel_metrics(lambda: zip("01234", gt_masks, next(passes), strict=True))


def test_a_map_that_is_wider_the_second_time_is_refused():
    gt_masks, maps = random_images()
    passes = iter([maps, maps.astype(np.float64)])
    with pytest.raises(TypeError, match="Cannot cast"):
        pixel_metrics(lambda: zip("01234", gt_masks, next(passes), strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_streamed_images_are_never_held(monkeypatch, dtype, threads):
    monkeypatch.setattr(ranks, "CHUNK_PIXELS", 250_000)
    height = width = 500
    gt_mask = np.zeros((height, width), bool)
    gt_mask[5:15, 5:15] = True

    def pairs():
        for seed in range(24):
            rng = np.random.default_rng(seed)
            yield str(seed), gt_mask, rng.random((height, width), dtype) + gt_mask

    pixel_metrics(pairs, threads=threads)  # imports
    tracemalloc.start()
    pixel_metrics(pairs, threads=threads)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Two images of 1 MB (of float32) with what is made of them, and one chunk; all would be 24 MB.
    assert peak < 1.75e6 * np.dtype(dtype).itemsize


@pytest.mark.parametrize(("truth", "missing"), [(False, "anomalous"), (True, "normal")])
def test_one_class_is_undefined_and_never_zero(truth, missing):
    gt_mask, anomaly_map = np.full((2, 3), truth), np.zeros((2, 3), np.float32)
    reason = f"no {missing} pixel in 1 images"
    for metric in (aupro, pixel_auroc, pixel_average_precision, pixel_f1_max):
        with pytest.raises(UndefinedMetricError, match=reason):
            metric([gt_mask], [anomaly_map])
    values, undefined = pixel_metrics(lambda: [("a", gt_mask, anomaly_map)])
    assert values == {}
    assert undefined == dict.fromkeys(
        ("pixel_auroc", "aupro", "pixel_average_precision", "pixel_f1_max"), reason
    )


def test_no_image_is_undefined():
    with pytest.raises(UndefinedMetricError, match="no anomalous pixel in 0 images"):
        aupro([], [])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_names_its_image(wrong):
    gt_mask, anomaly_map = picture("#1 .2 .3")
    broken = anomaly_map.copy()
    broken[0, 2] = wrong
    images = [("a/000.png", gt_mask, anomaly_map), ("b/007.png", gt_mask, broken)]
    with pytest.raises(
        ValueError, match=rf"of b/007.png must be finite, got {wrong} at .*\(0, 2\)"
    ):
        pixel_metrics(lambda: images)


@pytest.mark.parametrize(
    ("gt_mask", "anomaly_map", "error", "message"),
    [
        (np.array([[0, 255]], np.uint8), np.zeros((1, 2)), TypeError, "gt_mask of image 0 must be"),
        (np.array([[True, False]]), np.zeros((1, 2), complex), TypeError, "anomaly_map of image 0"),
        (np.array([[True, False]]), np.zeros((2, 1)), ValueError, r"\(1, 2\) and \(2, 1\)"),
        (np.array([True, False]), np.zeros(2), ValueError, r"one shape \(H, W\)"),
    ],
)
def test_what_is_no_mask_or_map_is_refused(gt_mask, anomaly_map, error, message):
    with pytest.raises(error, match=message):
        aupro([gt_mask], [anomaly_map])


def test_arguments_out_of_range_are_refused_before_any_work():
    def pairs():
        raise AssertionError

    for limit in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"fpr_limit must be in \(0, 1\]"):
            pixel_metrics(pairs, fpr_limit=limit)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        pixel_metrics(pairs, threads=0)
    with pytest.raises(ValueError, match="equally many, got 1 and 2"):
        aupro(np.zeros((1, 2, 2), bool), np.zeros((2, 2, 2)))
