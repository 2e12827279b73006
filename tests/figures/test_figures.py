"""The figures hold what they claim; their geometry is worked out by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from harness.charts import WIDTH, draw_curves, draw_mistakes
from harness.data.split import Sample
from harness.experiment import most_wrong
from harness.record import ImageScore, Record
from harness.system.terminal import shown
from tests.names import NAMES

SCORES = (
    ImageScore("t/good/0.png", "good", False, 1.0),
    ImageScore("t/good/1.png", "good", False, 4.0),
    ImageScore("t/cut & tear/0.png", "cut & tear", True, 3.0),
    ImageScore("t/cut & tear/1.png", "cut & tear", True, 5.0),
)


_TEXTS = ("dataset", "category", "model", "backbone", "model_factory", "backbone_factory")


def record(scores=SCORES, **metrics):
    names = dict.fromkeys(_TEXTS, "x")
    counts = dict.fromkeys(("n_train", "n_test_normal", "n_test_anomalous"), 2)
    return Record(
        **(names | counts),
        seed=1,
        settings={},
        weights_digest="",
        data_fingerprint="",
        official=False,
        metrics=metrics,
        scores=scores,
    )


def words(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.text]


def polylines(svg):
    return [
        np.array([pair.split(",") for pair in points.split()], dtype=float)
        for points in re.findall(r'polyline class="curve" points="([^"]*)"', svg)
    ]


def test_curves_go_through_the_points_of_the_scores():
    svg = draw_curves(record(image_auroc=0.75))
    roc, precision_recall = polylines(svg)
    # By hand: thresholds 5, 4, 3, 1 give (fpr, tpr) and (recall, precision).
    expected = [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert roc == pytest.approx(np.array([(40 + 290 * a, 300 - 290 * b) for a, b in expected]))
    for recall, precision in [(0.5, 1), (0.5, 0.5), (1, 2 / 3), (1, 0.5)]:
        point = 40 + 290 * recall, 300 - 290 * precision
        assert np.abs(precision_recall - point).max(axis=1).min() < 0.1
    # Chance: the diagonal, and the share of anomalous images.
    chance = re.findall(r'class="chance" x1="40.0" y1="([^"]*)" x2="330.0" y2="([^"]*)"', svg)
    assert chance == [("300.0", "10.0"), ("155.0", "155.0")]
    assert re.findall(r"<g transform='translate\((\d+) 52\)'", svg) == ["0", "360", "720"]
    assert f"width='{3 * WIDTH}'" in svg
    assert "ROC: Image AUROC 0.750" in words(svg)
    assert {"good (2)", "cut & tear (2)"} <= set(words(svg))


@pytest.mark.parametrize(("scores", "name"), [(SCORES[:2], "good"), (SCORES[2:], "cut & tear")])
def test_scores_of_one_kind_have_no_curves(scores, name):
    svg = draw_curves(record(scores))
    assert not polylines(svg)
    assert f"{name} (2)" in words(svg)


def test_equal_scores_are_drawn():
    svg = draw_curves(record(tuple(score._replace(score=2.0) for score in SCORES)))
    ElementTree.fromstring(svg)


@pytest.fixture
def samples(tmp_path):
    found = []
    for score in SCORES:
        path = tmp_path / score.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if score.anomalous else "RGB", (40, 30), 90).save(path)
        image, kind, anomalous, _ = score
        found.append(Sample(tmp_path, image, kind, anomalous, None, "", None, (30, 40)))
    return found


def test_most_wrong_images(samples):
    grids = [np.full((2, 2), number) for number in range(4)]
    alarm, miss = most_wrong(samples, SCORES, grids)
    assert (alarm.image, miss.image) == (SCORES[1], SCORES[2])
    assert alarm.path == samples[1].path
    assert miss.anomaly_map is grids[2]
    assert alarm.note == "false alarm: 1 of 2 anomalous images score no higher"
    assert miss.note == "miss: 1 of 2 normal images score no lower"


def test_scores_that_separate_have_no_mistakes(samples):
    apart = tuple(s._replace(score=float(s.anomalous)) for s in SCORES)
    assert most_wrong(samples, apart, []) == ()


def test_an_orientation_that_cannot_be_read_stops_no_picture(samples):
    for sample in samples:
        Image.new("RGB", (40, 30), 90).save(sample.path, exif=b"no EXIF data at all")
    svg = draw_mistakes(most_wrong(samples, SCORES, []))
    assert svg.count("<image") == 2


@pytest.mark.parametrize("grids", [[], [np.eye(2)] * 4, [np.zeros((3, 2))] * 4])
def test_picture_of_mistakes_holds_images_and_maps(samples, grids):
    svg = draw_mistakes(most_wrong(samples, SCORES, grids))
    images = [node for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("image")]
    assert len(images) == (6 if grids else 2)
    assert "t/cut & tear/0.png, score 3" in words(svg)
    assert Path(samples[0].path).exists()


def test_a_map_of_the_centre_lies_over_the_centre(samples):
    """Of 160 pixels a map of three quarters covers 120, after the picture's 160 and 20 more."""
    svg = draw_mistakes(most_wrong(samples, SCORES, [np.eye(2)] * 4, covers=0.75))
    images = [node for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("image")]
    picture, _, map_ = images[:3]
    assert (map_.get("width"), map_.get("height")) == ("120", "120")
    assert float(map_.get("x")) == float(picture.get("x")) + 160 + 20
    assert float(map_.get("y")) == float(picture.get("y")) + 20


@pytest.mark.parametrize("name", NAMES)
def test_names_are_words_of_the_figures_and_nothing_else(name, samples):
    """The elements are those of a figure of plain names, for an XML parser."""

    def drawn(word):
        scores = tuple(s._replace(defect_type=word) for s in SCORES)
        called = replace(record(scores), dataset=word, category=word, model=word, backbone=word)
        wrong = [
            mistake._replace(image=mistake.image._replace(image=word), note=word)
            for mistake in most_wrong(samples, SCORES, [])
        ]
        return draw_curves(called), draw_mistakes(wrong)

    for nasty, plain in zip(drawn(name), drawn("x"), strict=True):
        nodes, expected = (list(ElementTree.fromstring(svg).iter()) for svg in (nasty, plain))
        assert [(n.tag, sorted(n.attrib)) for n in nodes] == [
            (n.tag, sorted(n.attrib)) for n in expected
        ]
        assert any(shown(name) in word for word in words(nasty))
