from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from harness.config import (
    BackboneConfig,
    DatasetConfig,
    FeaturesConfig,
    Job,
    ModelConfig,
    TrackingConfig,
)
from harness.data import DataError, load_split
from harness.evaluate import evaluate
from harness.gallery.draw import EACH, SIZE, draw_gallery
from harness.record import ImageScore
from harness.report.page.gallery import read_gallery
from harness.report.select import select
from harness.report.table import read_table
from harness.tracking import Known, open_tracker, read_job, read_runs


@pytest.fixture
def scores(job: Job) -> tuple[ImageScore, ...]:
    """Scores that put every normal image above every anomalous one."""
    split = load_split(job.dataset, job.category, seed=job.seed)
    return tuple(
        ImageScore(sample.name, sample.defect_type, sample.anomalous, i - 100.0 * sample.anomalous)
        for i, sample in enumerate(split.test)
    )


def test_the_most_confident_mistakes_come_first(
    job: Job, scores: tuple[ImageScore, ...], tmp_path: Path
) -> None:
    shown = draw_gallery(job, scores, tmp_path)
    pictures = read_gallery(tmp_path)
    assert shown == len(pictures)
    chosen = {k: [p.image for p in pictures if p.kind == k] for k in ("false_alarm", "miss")}
    normal = sorted((s for s in scores if not s.anomalous), key=lambda s: s.score, reverse=True)
    anomalous = sorted((s for s in scores if s.anomalous), key=lambda s: s.score)
    assert chosen["false_alarm"] == [s.image for s in normal[:EACH]]
    assert chosen["miss"] == [s.image for s in anomalous[:EACH]]
    assert (
        pictures[0].note == f"{len(anomalous)} of {len(anomalous)} anomalous images score no higher"
    )


def test_separated_scores_show_no_mistake(job: Job, tmp_path: Path) -> None:
    split = load_split(job.dataset, job.category, seed=job.seed)
    apart = [ImageScore(s.name, s.defect_type, s.anomalous, float(s.anomalous)) for s in split.test]
    draw_gallery(job, apart, tmp_path)
    assert {picture.kind for picture in read_gallery(tmp_path)} == {"best_map", "worst_map"}


def test_pictures_maps_and_masks_are_small_images(
    job: Job, scores: tuple[ImageScore, ...], tmp_path: Path
) -> None:
    draw_gallery(job, scores, tmp_path)
    for picture in read_gallery(tmp_path):
        expected = {"picture", "map"} | ({"mask"} if picture.defect_type != "good" else set())
        assert set(picture.files) == expected
        for path in picture.files.values():
            assert cv2.imread(str(path)).shape == (SIZE, SIZE, 3)
    notes = [p.note for p in read_gallery(tmp_path) if p.kind.endswith("_map")]
    best, worst = (
        [float(n.rsplit(" ", 1)[1]) for n in part]
        for part in (notes[: len(notes) // 2], notes[len(notes) // 2 :])
    )
    assert min(best) >= max(worst)
    assert best == sorted(best, reverse=True)
    assert worst == sorted(worst)


def test_without_a_localizer_there_are_pictures_alone(
    job: Job, scores: tuple[ImageScore, ...], tmp_path: Path
) -> None:
    draw_gallery(replace(job, localizer="none"), scores, tmp_path)
    assert {p.kind for p in read_gallery(tmp_path)} == {"false_alarm", "miss"}
    assert all("map" not in p.files for p in read_gallery(tmp_path))


def test_images_that_went_away_are_named(
    job: Job, scores: tuple[ImageScore, ...], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(str(job.dataset.root), tmp_path / "copy"))
    shutil.rmtree(root / job.category / "test")
    with pytest.raises(DataError):
        draw_gallery(replace(job, dataset=replace(job.dataset, root=str(root))), scores, tmp_path)


def test_a_job_is_read_back_from_its_run(job: Job, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    tracker = open_tracker(TrackingConfig(uri=uri))
    run = tracker.start(job, Known("id", official=False, code="c" * 64))
    tracker.finish(run, evaluate(job))
    assert read_job(run.run_id, uri) == job


def test_a_run_that_failed_before_it_read_anything_still_fits_its_table(tmp_path: Path) -> None:
    conf = Path(__file__).parents[2] / "conf"
    table = read_table(conf, "demo")
    uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    tracker = open_tracker(TrackingConfig(uri=uri))
    job = _job_of(table.config, category="mono")
    for changed in (job, replace(job, category="poly", n_train=8)):
        tracker.fail(tracker.start(changed, None), OSError("no disk"))
    chosen = select(table, read_runs(uri)).runs
    assert [(cell.category, run.error) for cell, run in chosen.items()] == [
        ("mono", "OSError: no disk")
    ]


def _job_of(config: dict[str, Any], *, category: str) -> Job:
    groups = {
        "dataset": DatasetConfig,
        "backbone": BackboneConfig,
        "model": ModelConfig,
        "features": FeaturesConfig,
    }
    made = {name: kind(**config[name]) for name, kind in groups.items()}
    return Job(category=category, **made)
