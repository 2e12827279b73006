"""Every metric against its definition, written out in exact fractions, one threshold at a time."""

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy import ndimage

from harness.metrics import (
    image_auroc,
    image_average_precision,
    image_f1_max,
    pixel_metrics,
    ranks,
)

TIED = [-2.0, -0.0, 0.0, 1.0, 1.5, 3.0]
EXTREME = [0.0, -0.0, 1e-45, 3e-45, -1e-45, 1e-38, 1e30, -1e30, 3e38, 1.0, 1.0 + 2**-23]


def thresholds(anomalous, normal):
    """(threshold, true positives, false positives), from the highest score down."""
    for threshold in sorted({*anomalous, *normal}, reverse=True):
        hits = sum(score >= threshold for score in anomalous)
        yield threshold, hits, sum(score >= threshold for score in normal)


def naive_auroc(anomalous, normal):
    wins = sum(2 * (a > n) + (a == n) for a in anomalous for n in normal)
    return Fraction(wins, 2 * len(anomalous) * len(normal))


def naive_average_precision(anomalous, normal):
    total, before = Fraction(0), 0
    for _, hits, alarms in thresholds(anomalous, normal):
        total += Fraction(hits - before, len(anomalous)) * Fraction(hits, hits + alarms)
        before = hits
    return total


def naive_f1_max(anomalous, normal):
    return max(
        Fraction(2 * hits, hits + alarms + len(anomalous))
        for _, hits, alarms in thresholds(anomalous, normal)
    )


def naive_aupro(regions, normal, limit):
    everything = [score for region in regions for score in region]
    area, x0, y0 = Fraction(0), Fraction(0), Fraction(0)
    for threshold, _, alarms in thresholds(everything, normal):
        x1 = Fraction(alarms, len(normal))
        shares = [Fraction(sum(s >= threshold for s in r), len(r)) for r in regions]
        y1 = sum(shares) / len(regions)
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            return (area + (limit - x0) * (y0 + y1) / 2) / limit
        area += (x1 - x0) * (y0 + y1) / 2
        x0, y0 = x1, y1
    return area / limit


def split_pixels(gt_masks, maps):
    """Lists of scores: one per region, labelled by scipy, and one of the normal pixels."""
    regions, normal = [], []
    for gt_mask, anomaly_map in zip(gt_masks, maps, strict=True):
        labels, count = ndimage.label(gt_mask, structure=np.ones((3, 3)))
        regions += [anomaly_map[labels == label + 1].tolist() for label in range(count)]
        normal += anomaly_map[~gt_mask].tolist()
    return regions, normal


@st.composite
def images(draw):
    """One to three masks and maps of their own shapes, one dtype, with ties and extremes."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    width = 32 if dtype == np.float32 else 64
    anything = st.floats(allow_nan=False, allow_infinity=False, width=width)
    values = draw(st.sampled_from([st.sampled_from(TIED), st.sampled_from(EXTREME), anything]))
    shapes = draw(st.lists(st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=5), max_size=2))
    gt_masks = [draw(st_numpy.arrays(bool, shape)) for shape in [*shapes, (3, 4)]]
    gt_masks[-1][0, :2] = True, False  # both classes are present
    maps = [
        draw(st_numpy.arrays(dtype, mask.shape, elements=values.map(dtype))) for mask in gt_masks
    ]
    return gt_masks, maps


@settings(max_examples=80)
@given(
    images(),
    st.floats(0.01, 1.0),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 9),
)
def test_pixel_metrics_are_the_definition(pictures, limit, threads, tiny):
    """Also in tiny chunks and blocks, on several threads."""
    gt_masks, maps = pictures
    names = [str(index) for index in range(len(maps))]
    with (
        mock.patch.object(ranks, "CHUNK_PIXELS", tiny),
        mock.patch.object(ranks, "_BLOCK", 1 + tiny // 3),
        mock.patch.object(ranks, "_STEPS", tiny % 4),
    ):
        values, undefined = pixel_metrics(
            lambda: zip(names, gt_masks, maps, strict=True),
            fpr_limit=limit,
            threads=threads,
        )
    regions, normal = split_pixels(gt_masks, maps)
    anomalous = [score for region in regions for score in region]
    expected = {
        "pixel_auroc": naive_auroc(anomalous, normal),
        "aupro": naive_aupro(regions, normal, Fraction(limit)),
        "pixel_average_precision": naive_average_precision(anomalous, normal),
        "pixel_f1_max": naive_f1_max(anomalous, normal),
    }
    assert not undefined
    assert values == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-12, rel=0)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(TIED) | st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=30,
    )
)
def test_image_metrics_are_the_definition(rest):
    labels, scores = zip((True, 1.0), (False, 0.0), *rest, strict=True)
    anomalous = [s for label, s in zip(labels, scores, strict=True) if label]
    normal = [s for label, s in zip(labels, scores, strict=True) if not label]
    assert image_auroc(labels, scores) == pytest.approx(
        float(naive_auroc(anomalous, normal)), abs=1e-12
    )
    assert image_average_precision(labels, scores) == pytest.approx(
        float(naive_average_precision(anomalous, normal)), abs=1e-12
    )
    assert image_f1_max(labels, scores).value == pytest.approx(
        float(naive_f1_max(anomalous, normal)), abs=1e-12
    )
