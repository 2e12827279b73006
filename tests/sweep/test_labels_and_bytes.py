"""What single jobs and sweeps alike record of labels, of changed images and of what was built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.load import survey as survey_of
from harness.features import reader
from harness.tracking import read_runs
from tests.sweep.conftest import in_process, runs

MODES = pytest.mark.parametrize("mode", [(), ("-m",)], ids=["job", "sweep"])
OWN_FOLDER = ("dataset=folder", "category=all", "localizer=none", "model.params.n_components=2")


def write_folder(root, *, defect_type):
    """Twelve normal images and four of a defect type, all different."""
    random = np.random.default_rng(0)
    for name, count in (("normal", 12), (f"abnormal/{defect_type}", 4)):
        (root / name).mkdir(parents=True)
        for k in range(count):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k}.png")
    return root


@MODES
def test_a_defect_type_called_good_is_anomalous(client, folder, mode):
    root = write_folder(folder / "mine", defect_type="good")
    ended = in_process(*mode, *OWN_FOLDER, f"dataset.root={root}")
    assert ended.status == 0, ended.out + ended.err
    [run] = runs(client)
    assert run.data.params["images.test_anomalous"] == "4"
    text = Path(client.download_artifacts(run.info.run_id, "scores.csv")).read_text()
    assert text.count("abnormal/good/") == 4


@MODES
def test_an_image_replaced_during_a_job_and_put_back_costs_that_run_only(
    client, folder, mode, monkeypatch
):
    monkeypatch.setattr(reader, "_readers", {})  # or features of another test's are in memory
    root = write_folder(folder / "mine", defect_type="bent")
    image = root / "abnormal" / "bent" / "0.png"
    before, other = image.read_bytes(), (root / "normal" / "0.png").read_bytes()

    def replaced(*arguments, **named):
        found = survey_of(*arguments, **named)
        image.write_bytes(other)  # after it was listed, before it is decoded
        return found

    job = (*mode, *OWN_FOLDER, f"dataset.root={root}")
    with monkeypatch.context() as patch:
        patch.setattr("harness.data.load.survey", replaced)
        ended = in_process(*job)
    assert ended.status == 1, ended.out
    assert "abnormal/bent/0.png: changed while the job ran" in ended.out
    image.write_bytes(before)
    assert in_process(*job).status == 0
    assert in_process(*job, "features.cache=null", "force=true").status == 0
    without_cache, cached = [run for run in runs(client) if run.info.status == "FINISHED"]
    scores = [
        Path(client.download_artifacts(run.info.run_id, "scores.csv")).read_text()
        for run in (without_cache, cached)
    ]
    assert scores[0] == scores[1]


@MODES
def test_a_run_tells_what_built_its_model_whatever_it_is_named(client, mode):
    job = (*mode, "dataset=btad", "category=01", "localizer=none")
    ended = in_process(*job, "model.factory=dfkde.density:DFKDEResidual")
    assert ended.status == 0, ended.err
    [run] = read_runs()
    assert (run.record.model, run.record.model_factory) == ("dfkde", "dfkde.density:DFKDEResidual")
    assert run.record.backbone_factory == "tiny_backbone:build"
