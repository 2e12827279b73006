"""Anomalous is what the layout says: images of a defect type called `good` are defects."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from harness.charts import draw_curves, histogram
from harness.data import load_split, read_mask
from harness.data.listing import ImageFile, Listing
from harness.data.official import split_digest
from harness.data.synthetic import write_synthetic
from harness.experiment import evaluate
from harness.record import ImageScore
from tests.conftest import dataset_config
from tests.figures.test_figures import record


def folder_job(job, tmp_path):
    """`normal/`, and the defects `good` and `scratch` with their masks."""
    bottle = Path(job.dataset.root) / "bottle"
    mine = tmp_path / "mine" / "bottle"
    shutil.copytree(bottle / "train/good", mine / "normal")
    for kind, name in (("spot", "good"), ("scratch", "scratch")):
        shutil.copytree(bottle / "test" / kind, mine / "abnormal" / name)
        shutil.copytree(bottle / "ground_truth" / kind, mine / "masks" / name)
    settings = dataset_config("folder")
    dataset = replace(settings, root=str(mine.parent), categories=["bottle"], official=False)
    return replace(job, dataset=dataset, category="bottle"), "bottle/abnormal/"


def btad_job(job, tmp_path):
    """`test/ok`, `test/ko`, and half of the latter as `test/good`, with their masks."""
    root = write_synthetic(tmp_path / "btad", "btad", categories=["03"])
    for below in ("test", "ground_truth"):
        defects = sorted((root / "03" / below / "ko").iterdir())
        (root / "03" / below / "good").mkdir()
        for path in defects[: len(defects) // 2]:
            path.rename(root / "03" / below / "good" / path.name)
    dataset = replace(dataset_config("btad"), root=str(root), official=False)
    return replace(job, dataset=dataset, category="03"), "03/test/[gk]o+d?/"


@pytest.fixture(params=[folder_job, btad_job])
def named_good(request, job, tmp_path):
    """A job with the defect type `good`, and a pattern of the names of anomalous images."""
    return request.param(job, tmp_path)


def is_defect(name, pattern):
    return re.match(pattern, name) is not None and "/ok/" not in name


def test_they_are_anomalous_tested_and_have_their_masks(named_good):
    job, pattern = named_good
    split = load_split(job.dataset, job.category, seed=job.seed)
    assert not any(is_defect(sample.name, pattern) for sample in split.train)
    assert not any(sample.anomalous for sample in split.train)
    assert [s.anomalous for s in split.test] == [is_defect(s.name, pattern) for s in split.test]
    named = [sample for sample in split.test if sample.anomalous and sample.defect_type == "good"]
    folder = Path(job.dataset.root) / pattern.split("/")[0]
    folder /= "abnormal/good" if job.dataset.reader == "folder" else "test/good"
    assert {sample.path for sample in named} == set(folder.iterdir())
    for sample in named:
        assert "/good/" in str(sample.mask_name)
        assert sample.mask_path.stem.removesuffix("_mask") == sample.path.stem
        assert read_mask(sample.mask_path).any()


def test_a_job_counts_and_measures_them_as_anomalous(named_good):
    job, pattern = named_good
    found = evaluate(job)
    labels = [is_defect(score.image, pattern) for score in found.scores]
    assert [score.anomalous for score in found.scores] == labels
    assert (found.n_test_anomalous, found.n_test_normal) == (sum(labels), labels.count(False))
    expected = roc_auc_score(labels, [score.score for score in found.scores])
    assert found.metrics["image_auroc"] == pytest.approx(expected)
    assert 0 <= found.metrics["pixel_auroc"] <= 1


def test_one_without_a_mask_is_refused(named_good):
    job, _ = named_good
    split = load_split(job.dataset, job.category, seed=job.seed)
    named = [sample for sample in split.test if sample.anomalous and sample.defect_type == "good"]
    named[0].mask_path.unlink()
    with pytest.raises(ValueError, match=rf"{named[0].name}: has no ground truth mask"):
        load_split(job.dataset, job.category, seed=job.seed)


SCORES = tuple(ImageScore(f"{n}.png", "good", anomalous=n >= 2, score=float(n)) for n in range(5))


def test_curves_draw_them_apart_from_normal_images():
    svg = draw_curves(record(SCORES))
    assert re.findall(r">(good \(\d\))<", svg) == ["good (2)", "good (3)"]
    kinds = [svg.count("<rect", *group.span()) for group in re.finditer(r"<g class=.*?</g>", svg)]
    assert kinds == [2, 3]


def test_a_page_draws_them_apart_from_normal_images():
    rows = re.findall(r'<g class="(\w+)">.*?>(\w+ \(\d\))</text>', histogram("bolt", SCORES).body)
    assert rows == [("normal", "good (2)"), ("anomalous", "good (3)")]


def test_a_page_draws_a_normal_image_as_normal_whatever_its_type_is_called():
    scores = [score._replace(defect_type="sound") for score in SCORES]
    assert re.findall(r'<g class="(\w+)">', histogram("bolt", scores).body) == [
        "normal",
        "anomalous",
    ]


def test_a_split_with_them_has_another_digest():
    normal, anomalous = (
        Listing((), (ImageFile("c/0.png", "good", anomalous=label),), (), {})
        for label in (False, True)
    )
    assert split_digest(normal) != split_digest(anomalous)
