"""A run's model in MLflow: loaded, served over HTTP, and equal to `harness.predict`."""

import base64
import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml

from dfkde.registry import TrustError
from harness.config import BackboneConfig, ModelConfig, TrackingConfig
from harness.predict.__main__ import main
from harness.predict.model import predict_settings
from harness.sweep.task import run_job
from harness.tracking import open_tracker
from harness.tracking.store import connect
from tests.predict.conftest import ROOT, TRUSTED, environment, run_and_keep
from tests.saved import rewrite, touching

CENTROID = "tests.centroid:Centroid"


@pytest.fixture(scope="module")
def run_id(kept_job, uri):
    return run_and_keep(kept_job, uri)


@pytest.fixture
def predicted(run_id, uri, images, tmp_path):
    """The scores of `harness.predict`, by path."""
    return scores_of_command(run_id, uri=uri, images=images, out=tmp_path / "out")


def scores_of_command(run_id, *, uri, images, out, trusted=TRUSTED):
    status = main(
        [
            f"model={run_id}", f"images={images}", f"out={out}", f"tracking.uri={uri}",
            f"cache={out.parent / 'cache'}", "heatmaps=false", f"trusted={trusted}",
        ]
    )  # fmt: skip
    assert status in (0, 1)
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


@contextlib.contextmanager
def served(run_id, uri, *, log):
    """Serve a run's model on the loopback; yield the address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", f"runs:/{run_id}/model",
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    settings = environment(
        MLFLOW_TRACKING_URI=uri,
        MLFLOW_DISABLE_TELEMETRY="true",
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    )
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=settings, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, log=log)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def wait_for(address, process, *, log):
    end = time.monotonic() + 180
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"{address} does not answer: {log.read_text()}")


def post(address, paths, **params):
    """Send image files as base64 and return the rows of the answer."""
    data = [[base64.b64encode(path.read_bytes()).decode()] for path in paths]
    body = {"dataframe_split": {"columns": ["image"], "data": data}}
    if params:
        body["params"] = params
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        text = answer.read().decode()
    assert "NaN" not in text
    return json.loads(text)["predictions"]


def check_equal(rows, predicted, names):
    assert len(rows) == len(names)
    for row, name in zip(rows, names, strict=True):
        expected = predicted[name]
        for column in ("score", "percentile", "threshold"):
            assert row[column] == (float(expected[column]) if expected[column] else None)
        assert (row["verdict"] or "") == expected["verdict"]
        assert (row["error"] or "") == expected["error"]


def test_loaded_by_mlflow_it_gives_the_scores_of_the_command(run_id, uri, images, predicted):
    names = list(predicted)
    table = pd.DataFrame({"image": [(images / name).read_bytes() for name in names]})
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    check_equal(model.predict(table).to_dict("records"), predicted, names)
    lowest = model.predict(table, params={"quantile": 0.01})["threshold"][0]
    assert lowest < model.predict(table)["threshold"][0]
    # Pillow would start Ghostscript for it.
    postscript = pd.DataFrame({"image": [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"]})
    refused = model.predict(postscript).to_dict("records")[0]
    assert refused["score"] is None
    assert "PNG, JPEG, BMP, TIFF" in refused["error"]


@pytest.fixture(scope="module")
def own_run(kept_job, uri):
    """A run with a model class and a backbone that are not this project's own."""
    own = ModelConfig("centroid", CENTROID)
    return run_and_keep(replace(kept_job, model=own, localizer="none"), uri)


def test_a_model_of_ones_own_is_loaded_by_mlflow(own_run, uri, images, tmp_path):
    predicted = scores_of_command(
        own_run, uri=uri, images=images, out=tmp_path / "out", trusted=f"[{CENTROID},{TRUSTED}]"
    )
    names = list(predicted)
    table = pd.DataFrame({"image": [(images / name).read_bytes() for name in names]})
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(f"runs:/{own_run}/model")
    assert model.model_config["trusted"] == [CENTROID, TRUSTED]
    check_equal(model.predict(table).to_dict("records"), predicted, names)


def run_on_maps(job, uri, name, factory, params):
    """Keep a model on the maps of two layers."""
    model = ModelConfig(name, factory, params, {"tiny": ["features.0", "features"]})
    return run_and_keep(replace(job, model=model, localizer="none"), uri)


def test_a_model_on_maps_is_loaded_by_mlflow(kept_job, uri, images, tmp_path):
    run_id = run_on_maps(kept_job, uri, "padim", "dfkde.padim:PaDiM", {"n_features": 8})
    predicted = scores_of_command(run_id, uri=uri, images=images, out=tmp_path / "out")
    names = list(predicted)
    table = pd.DataFrame({"image": [(images / name).read_bytes() for name in names]})
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    check_equal(model.predict(table).to_dict("records"), predicted, names)


def test_the_callers_settings_go_before_those_of_the_folder(own_run, uri):
    mlflow.set_tracking_uri(uri)
    with pytest.raises(TrustError, match=f"asks for '{TRUSTED}', no"):
        mlflow.pyfunc.load_model(f"runs:/{own_run}/model", model_config={"trusted": [CENTROID]})
    with pytest.raises(ValueError, match=r"engine must be one of .*caffe"):
        mlflow.pyfunc.load_model(f"runs:/{own_run}/model", model_config={"engine": "caffe"})


def test_the_command_does_not_heed_whom_a_folder_trusts(own_run, uri, images, tmp_path, capsys):
    folder = Path(connect(uri).download_artifacts(own_run, "model"))
    for model in (folder, own_run):
        out = tmp_path / "out"
        assert (
            main([f"model={model}", f"images={images}", f"tracking.uri={uri}", f"out={out}"]) == 2
        )
        assert f"allow it by trusted={CENTROID},{TRUSTED} on the" in capsys.readouterr().err


def test_a_command_as_backbone_is_not_run(run_id, uri, images, tmp_path, capsys):
    """Neither by the command nor by MLflow where the folder's own code says what is trusted."""
    source = Path(connect(uri).download_artifacts(run_id, "model"))
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    rewrite(folder / "artifacts" / "detector", touching(tmp_path / "marker"))
    with pytest.raises(TrustError, match="asks for 'os:system', no"):
        mlflow.pyfunc.load_model(str(folder))
    assert main([f"model={folder}", f"images={images}", f"out={tmp_path / 'out'}"]) == 2
    assert "asks for 'os:system', no" in capsys.readouterr().err
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
def test_served_over_http_it_gives_the_scores_of_the_command(
    run_id, uri, images, predicted, tmp_path
):
    names = list(predicted)
    with served(run_id, uri, log=tmp_path / "serve.log") as address:
        check_equal(post(address, [images / name for name in names]), predicted, names)
        strict = post(address, [images / names[0]], quantile=0.01)
        assert strict[0]["threshold"] < float(predicted[names[0]]["score"])
        with pytest.raises(urllib.error.HTTPError, match="400"):
            post(address, [images / names[0]], quantile="high")


@pytest.mark.slow
def test_a_model_of_ones_own_is_served(own_run, uri, split, tmp_path):
    paths = [sample.path for sample in split.test[:2]]
    mlflow.set_tracking_uri(uri)
    table = pd.DataFrame({"image": [path.read_bytes() for path in paths]})
    expected = mlflow.pyfunc.load_model(f"runs:/{own_run}/model").predict(table)
    with served(own_run, uri, log=tmp_path / "serve.log") as address:
        assert [row["score"] for row in post(address, paths)] == list(expected["score"])


@pytest.mark.slow
def test_a_model_on_maps_is_served(kept_job, uri, images, tmp_path):
    run_id = run_on_maps(kept_job, uri, "patch_kde", "dfkde.patch_kde:PatchKDE", {})
    predicted = scores_of_command(run_id, uri=uri, images=images, out=tmp_path / "out")
    names = list(predicted)
    with served(run_id, uri, log=tmp_path / "serve.log") as address:
        check_equal(post(address, [images / name for name in names]), predicted, names)


@pytest.mark.slow
def test_three_real_images_over_http(job, uri, real_images, tmp_path):
    root = real_images / "mvtec_ad"
    backbone = yaml.safe_load((ROOT / "conf/backbone/efficientnet_lite0.yaml").read_text())
    real = replace(
        job,
        dataset=replace(job.dataset, root=str(root), official=True),
        backbone=BackboneConfig(**backbone),
        model=ModelConfig("dfkde_residual", "dfkde.density:DFKDEResidual"),
        features=replace(job.features, engine="auto"),
        image_size=256,
    )
    run_id = run_and_keep(real, uri)
    images = tmp_path / "real"
    images.mkdir()
    for kind in ("good", "broken_large", "contamination"):
        shutil.copy(root / "bottle" / "test" / kind / "000.png", images / f"{kind}.png")
    predicted = scores_of_command(run_id, uri=uri, images=images, out=tmp_path / "out")
    names = list(predicted)
    with served(run_id, uri, log=tmp_path / "serve.log") as address:
        check_equal(post(address, [images / name for name in names]), predicted, names)
    assert {name: row["verdict"] for name, row in predicted.items()} == {
        "good.png": "normal",
        "broken_large.png": "anomalous",
        "contamination.png": "anomalous",
    }


def test_the_model_names_its_input_and_what_it_needs(run_id, uri):
    folder = Path(connect(uri).download_artifacts(run_id, "model"))
    written = yaml.safe_load((folder / "MLmodel").read_text())
    assert json.loads(written["signature"]["inputs"]) == [
        {"type": "binary", "name": "image", "required": True}
    ]
    assert [one["name"] for one in json.loads(written["signature"]["outputs"])] == [
        "score", "percentile", "threshold", "verdict", "error",
    ]  # fmt: skip
    needed = (folder / "requirements.txt").read_text()
    assert all(name in needed for name in ("torch==", "numpy==", "pillow=="))
    assert not [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pickle", ".joblib", ".pt")]


def test_a_run_without_model_differs_from_no_run(small_job, uri, images, tmp_path, capsys):
    job = replace(small_job, localizer="none", seed=7)
    without = run_job(job, open_tracker(TrackingConfig(uri=uri), None)).run_id
    arguments = [f"images={images}", f"tracking.uri={uri}", f"out={tmp_path / 'out'}"]
    assert main([f"model={without}", *arguments]) == 2
    assert "kept none; run its job with save_model=true force=true" in capsys.readouterr().err
    assert main([f"model={'0' * 32}", *arguments]) == 2
    assert f"'{'0' * 32}' is neither a folder nor a run in {uri}" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["{}", "runs:/{}", "runs:/{}/model"])
def test_mlflows_own_variable_and_addresses(run_id, uri, images, tmp_path, model):
    """Where no `tracking.uri` is given."""
    arguments = [f"model={model.format(run_id)}", f"images={images / '0.png'}"]
    rest = [f"out={tmp_path / 'out'}", f"trusted={TRUSTED}", "heatmaps=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.chdir(tmp_path)
        assert main([*arguments, *rest]) == 0
        assert predict_settings(run_id, uri) == f"model={run_id}"
        patch.delenv("MLFLOW_TRACKING_URI")
        assert predict_settings(run_id, uri) == f"model={run_id} tracking.uri={uri}"


def test_another_artifact_of_a_run_is_no_model(run_id, uri, images, tmp_path, capsys):
    rest = [f"tracking.uri={uri}", f"images={images}", f"out={tmp_path / 'out'}"]
    assert main([f"model=runs:/{run_id}/other", *rest]) == 2
    assert f"run {run_id} kept no 'other'; run its job with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "n_train", "message"),
    [
        (
            ("dfkde", "dfkde.density:DFKDE", {"n_components": 16}),
            19,
            "dfkde needs 18 images, got 17",
        ),
        (("gaussian", "dfkde.baselines:Gaussian", {}), 3, "gaussian needs 3 images, got 2 of 3"),
        (("knn", "dfkde.baselines:KNN", {}), 1, "knn needs 1 images, got 0 of 1"),
    ],
)
def test_too_few_images_to_hold_out_are_refused_before_the_fit(
    small_job, uri, monkeypatch, model, n_train, message
):
    monkeypatch.setattr("harness.experiment.fit", None)
    job = replace(small_job, model=ModelConfig(*model), n_train=n_train)
    outcome = run_job(job, open_tracker(TrackingConfig(uri=uri), None), save_model=True)
    assert outcome.status == "failed"
    assert "save_model must be false where a tenth" in outcome.reason
    assert message in outcome.reason


def test_just_enough_images_to_hold_out(small_job, uri):
    model = ModelConfig("dfkde", "dfkde.density:DFKDE", {"n_components": 16})
    run_and_keep(replace(small_job, model=model, n_train=20), uri)
