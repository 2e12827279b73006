"""What `auto` means on a CPU, whatever happens to be installed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.features import settings
from harness.features.settings import resolve_device, resolve_engine, usable_engines

EVERY = {"torch", "onnxruntime", "openvino", "onnx", "onnxscript"}


def install(monkeypatch, names):
    found = SimpleNamespace(submodule_search_locations=[])
    monkeypatch.setattr(settings, "find_spec", lambda name: found if name in names else None)


@pytest.mark.parametrize(
    ("missing", "precision", "engine"),
    [
        (set(), "fp32", "onnxruntime"),
        ({"onnxruntime"}, "fp32", "torch"),
        ({"onnx"}, "fp32", "torch"),
        ({"onnxscript"}, "fp32", "torch"),
        ({"openvino"}, "fp32", "onnxruntime"),
        (set(), "bf16", "openvino"),
        ({"openvino"}, "bf16", "torch"),
    ],
    ids=str,
)
def test_auto_takes_the_fastest_engine_that_is_installed(monkeypatch, missing, precision, engine):
    install(monkeypatch, EVERY - missing)
    assert resolve_engine("auto", device="cpu", precision=precision) == engine


def test_an_engine_that_is_not_installed_is_refused_with_the_choices(monkeypatch):
    install(monkeypatch, EVERY - {"onnxruntime"})
    message = r"^engine must be one of torch, openvino for device cpu .*, got 'onnxruntime'$"
    with pytest.raises(ValueError, match=message):
        resolve_engine("onnxruntime", device="cpu", precision="fp32")


def test_a_gpu_is_for_torch_alone(monkeypatch):
    install(monkeypatch, EVERY)
    assert usable_engines("cuda", "fp32") == ["torch"]
    assert usable_engines("cuda", "bf16") == ["torch"]


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    for found in (True, False):
        monkeypatch.setattr(settings, "_has_cuda", lambda found=found: found)
        assert resolve_device("auto") == ("cuda" if found else "cpu")
    with pytest.raises(ValueError, match=r"^device must be cpu or auto .*, got 'cuda'$"):
        resolve_device("cuda")
