"""Every benchmark can be started; those that are cheap run on a few small images."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from benchmarks import decoding, map_models, scaling
from benchmarks.measure import extractor_of, write_pictures
from harness.config import FeaturesConfig

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
EXPLAINED = [name for name in NAMES if "ArgumentParser" in (FOLDER / f"{name}.py").read_text()]


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_imported(name):
    assert import_module(f"benchmarks.{name}").__doc__


@pytest.mark.parametrize("name", EXPLAINED)
def test_it_explains_itself(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"benchmarks.{name}").main()
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_the_network_without_weights_is_allowed():
    extractor_of(None).check(None)


def test_decoding_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["decoding", "--size", "40", "--n", "1"])
    decoding.main()
    said = capsys.readouterr().out
    assert all(f"| {name} |" in said for name in ("PNG", "JPG", "BMP"))


def test_a_model_on_maps_is_measured(tmp_path, monkeypatch):
    # Without the seconds of a translation.
    monkeypatch.setattr(map_models, "FeaturesConfig", partial(FeaturesConfig, engine="torch"))
    write_pictures(tmp_path, 6, size=40)
    arguments = ["--images", str(tmp_path), "--n-train", "4", "--n", "6", "--image-size", "64"]
    stages, peak = map_models.measure(map_models.parsed(arguments), "padim")
    assert len(stages) == len(map_models.STAGES)
    assert min(map(min, stages)) > 0
    assert peak > 1e6


def test_scaling_measures_a_whole_job_cold_and_warm(tmp_path, capsys):
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    scaling.write_job(tmp_path / "small", 40)
    for _ in ("cold", "warm"):
        scaling.measure_alone(tmp_path / "small", "resnet18")
        milliseconds, peak = map(float, capsys.readouterr().out.split())
        assert milliseconds > 0
        assert peak > 0
    assert len(list(tmp_path.rglob("*.pooled"))) == 40
    assert not list(tmp_path.rglob("*.maps"))
