from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import yaml

from dfkde.registry import TrustError
from harness import gallery
from harness.config import (
    BackboneConfig,
    DatasetConfig,
    FeaturesConfig,
    Job,
    ModelConfig,
    TrackingConfig,
)
from harness.data import DataError, load_split
from harness.experiment import EACH, evaluate
from harness.gallery import SIZE, draw_gallery
from harness.metrics import image_metrics
from harness.record import ImageScore
from harness.report.declaration import ReportError, read_table
from harness.report.formats import read_gallery
from harness.report.results import scores_digest
from harness.report.selection import Selection, fit, select
from harness.tracking import JobKey, open_tracker, read_job, read_runs
from harness.tracking.store import connect

TINY = "tests.tiny:build"


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


@pytest.mark.parametrize("pipe", [False, True])
def test_a_picture_that_went_away_is_named(
    job: Job, scores: tuple[ImageScore, ...], tmp_path: Path, pipe: bool
) -> None:
    draw_gallery(job, scores, tmp_path)
    gone = read_gallery(tmp_path)[0].files["picture"]
    gone.unlink()
    if pipe:
        os.mkfifo(gone)
    with pytest.raises(ReportError, match=f"{gone.name} is missing, or no regular file"):
        read_gallery(tmp_path)


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


def test_a_job_is_read_back_from_its_run(job: Job, uri: str) -> None:
    tracker = open_tracker(TrackingConfig(uri=uri), None)
    run = tracker.start(job, JobKey("id", official=False, code="c" * 64))
    tracker.finish(run, evaluate(job))
    assert read_job(run.run_id, uri, trusted=[TINY]) == job
    with pytest.raises(TrustError, match=f"job.yaml of run {run.run_id} asks for '{TINY}', no "):
        read_job(run.run_id, uri)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[[Path], str]) -> str:
    return make_store(tmp_path_factory.mktemp("store"))


def _stored(uri: str, job: Any) -> str:
    """Store a run whose artifact `job.yaml` holds what is given; return its id."""
    client = connect(uri)
    run = client.create_run("0")
    text = job if isinstance(job, str) else yaml.safe_dump(job)
    client.log_text(run.info.run_id, text, "job.yaml")
    return str(run.info.run_id)


def _hostile(job: Job, marker: Path) -> dict[str, Any]:
    """Return a job whose backbone would leave a file, were it built."""
    arguments = {"command": f"touch {marker}"}
    hostile = replace(job.backbone, factory="os:system", arguments=arguments)
    return asdict(replace(job, backbone=hostile))


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch, scores: tuple[ImageScore, ...]) -> Any:
    """Return what runs the command on one table of the given runs, by category."""
    return partial(_draw, monkeypatch, scores)


def _draw(
    monkeypatch: pytest.MonkeyPatch,
    scores: tuple[ImageScore, ...],
    runs: dict[str, str],
    *options: str,
) -> int:
    labels = [image.anomalous for image in scores]
    held = {
        "dataset": "parts",
        "metrics": image_metrics(labels, [image.score for image in scores]).values,
        "n_test_normal": labels.count(False),
        "n_test_anomalous": labels.count(True),
        "scores_digest": scores_digest(scores),
    }
    rows = [SimpleNamespace(finished=True, run_id=r, category=c, **held) for c, r in runs.items()]
    results = SimpleNamespace(rows=rows, scores=dict.fromkeys(runs, scores))
    tables = {"parts": SimpleNamespace(headline=True)}
    monkeypatch.setattr(gallery, "read_tables", lambda conf: tables)
    monkeypatch.setattr(gallery, "read_results", lambda folder, name: results)
    return gallery.main([*options])


def test_a_hostile_run_costs_its_category_and_runs_nothing(
    job: Job, uri: str, draw: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"
    own = replace(job, backbone=replace(job.backbone, name="own"))
    runs = {
        "bad": _stored(uri, _hostile(job, marker)),
        "strange": _stored(uri, asdict(job) | {"colour": "grey"}),
        "good": _stored(uri, asdict(own)),
    }
    options = ("--uri", uri, "--output", str(tmp_path / "out"), "--trusted", TINY)
    assert draw(runs, *options) == 1
    said = capsys.readouterr()
    refused, strange = said.err.splitlines()
    assert refused == (
        f"error: job.yaml of run {runs['bad']} asks for 'os:system', no model or backbone of this"
        " project, and what it names would run; if you trust that code, allow it by --trusted"
        f" {TINY} os:system on the command line or trusted=('{TINY}', 'os:system') in Python"
    )
    assert strange.startswith(f"error: job.yaml of run {runs['strange']} cannot be read: ")
    assert f"images in {tmp_path / 'out' / 'parts' / 'good'}" in said.out
    assert [path.name for path in (tmp_path / "out" / "parts").iterdir()] == ["good"]
    assert not marker.exists()


def test_a_model_and_a_backbone_that_need_trust_are_told_at_once(
    job: Job, uri: str, draw: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = replace(job, model=ModelConfig("centroid", "tests.centroid:Centroid"))
    runs = {"bottle": _stored(uri, asdict(own))}
    options = ["--uri", uri, "--output", str(tmp_path / "out")]
    assert draw(runs, *options) == 1
    said = capsys.readouterr().err
    assert "asks for 'tests.centroid:Centroid', 'tests.tiny:build', no model" in said
    names = re.findall(r"--trusted (\S+) (\S+) on", said)[0]
    assert draw(runs, *options, "--trusted", *names) == 0


def test_tables_and_scores_that_are_not_there_are_told(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(published)]
    assert gallery.main([*root, "parts_few", "parts_tiny"]) == 1
    assert capsys.readouterr().err == (
        "error: no table parts_few to draw; there are cells_small, parts_tiny, parts_wide\n"
    )
    (published / "results" / "scores" / "parts_tiny.csv").unlink()
    assert gallery.main([*root, "parts_tiny"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: results/scores/parts_tiny.csv: parts/bolt of run r-bolt: its n_")


def test_a_place_that_takes_no_pictures_is_told(
    job: Job, uri: str, draw: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    runs = {"bottle": _stored(uri, asdict(job))}
    assert draw(runs, "--uri", uri, "--output", str(tmp_path / "out"), "--trusted", TINY) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path / "out") in line


@pytest.mark.parametrize(
    "name",
    ["os:system", "os.system", "dfkde.trained:import_module", "dfkde.density.DFKDE", "dfkde.os:a"],
)
def test_a_model_that_is_not_our_own_is_not_read_as_a_job(job: Job, uri: str, name: str) -> None:
    run_id = _stored(uri, asdict(replace(job, model=ModelConfig("evil", name))))
    with pytest.raises(TrustError, match=f"asks for '{name}', no model or backbone of this"):
        read_job(run_id, uri, trusted=[TINY])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "grey"}, "TypeError: Job.* unexpected keyword argument 'colour'"),
        ({"backbone": {"hue": 1}}, "TypeError: BackboneConfig.* argument 'hue'"),
        ({"features": "fast"}, "TypeError: .*FeaturesConfig.* must be a mapping, not str"),
        ({"model": {"name": "x", "factory": ["os:system"]}}, "must be named by a text, got"),
        ("dataset: [", "ParserError: "),
        ("category: bolt", "KeyError: 'dataset'"),
        ("", "TypeError: "),
    ],
)
def test_what_is_no_job_of_this_version_is_told_in_one_line(
    job: Job, uri: str, change: Any, message: str
) -> None:
    run_id = _stored(uri, change if isinstance(change, str) else asdict(job) | change)
    with pytest.raises(
        ValueError, match=f"job.yaml of run {run_id} cannot be read: .*{message}"
    ) as e:
        read_job(run_id, uri, trusted=[TINY])
    assert "\n" not in str(e.value)


def test_a_run_that_failed_before_it_read_anything_still_fits_its_table(
    tmp_path: Path, make_store: Callable[[Path], str]
) -> None:
    conf = Path(__file__).parents[2] / "conf"
    table = read_table(conf, "demo")
    uri = make_store(tmp_path / "store")
    tracker = open_tracker(TrackingConfig(uri=uri), None)
    job = _job_of(table.config, category="mono")
    for changed in (job, replace(job, category="poly", n_train=8)):
        tracker.fail(tracker.start(changed, None), OSError("no disk"))
    runs = read_runs(uri)
    assert [run.record.category for run in runs if not fit(table, run.record)[1]] == ["mono"]
    notes = ("1 failed runs of demo not shown: OSError: no disk",)
    assert select(table, runs) == Selection({}, notes)


def _job_of(config: dict[str, Any], *, category: str) -> Job:
    groups = {
        "dataset": DatasetConfig,
        "backbone": BackboneConfig,
        "model": ModelConfig,
        "features": FeaturesConfig,
    }
    made = {name: kind(**config[name]) for name, kind in groups.items()}
    return Job(category=category, **made)
