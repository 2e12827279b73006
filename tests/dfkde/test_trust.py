"""A saved detector is data: what it names runs only if the caller said so, and slips are found."""

import importlib
import inspect
import pkgutil
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator

import dfkde
from dfkde import KNN, Backbone, Constant, Gaussian, TrainedDetector, localizer
from dfkde.registry import ESTIMATORS, FACTORIES, TrustError, check_trusted, untrusted
from dfkde.trained import names_to_trust
from tests.centroid import Centroid
from tests.saved import ARRAYS, STATE, rewrite, touching, with_class, with_factory

LITE = "dfkde.backbones.efficientnet_lite:efficientnet_lite"
CENTROID, TINY = "tests.centroid:Centroid", "tests.tiny:build"
MAPS = np.random.default_rng(0).normal(size=(20, 6, 2, 3)).astype(np.float32)
POOLED = MAPS.mean(axis=(2, 3))


def save(folder, model=None, *, factory=LITE):
    """Save a small detector and return it."""
    model = (model or KNN()).fit(POOLED)
    backbone = Backbone(factory, {}, None, ["features"], [0.5] * 3, [0.5] * 3, digest="0" * 64)
    locate = localizer("occlusion").fit(model, POOLED, MAPS)
    inputs = {"image_size": 64, "share": 1e-05, "note": "é"}
    detector = TrainedDetector(model, locate, backbone, inputs, model.anomaly_score(POOLED))
    detector.save(folder)
    return detector


def test_the_allowed_are_the_estimators_that_the_package_defines():
    """Whatever they are called elsewhere, by the module and the name that they have themselves."""
    found = set()
    for info in pkgutil.walk_packages(dfkde.__path__, "dfkde."):
        for value in vars(importlib.import_module(info.name)).values():
            is_estimator = inspect.isclass(value) and issubclass(value, BaseEstimator)
            if is_estimator and value.__module__ == info.name and not inspect.isabstract(value):
                found.add(f"{value.__module__}:{value.__qualname__}")
    assert found == ESTIMATORS
    for name in FACTORIES:
        module, _, function = name.partition(":")
        assert getattr(importlib.import_module(module), function).__module__ == module


def test_a_command_as_backbone_is_not_run(tmp_path):
    folder, marker = tmp_path / "detector", tmp_path / "marker"
    save(folder)
    rewrite(folder, touching(marker))
    with pytest.raises(TrustError, match="asks for 'os:system', no model or backbone of this"):
        Backbone.load(folder).extractor()
    with pytest.raises(TrustError, match="asks for 'os:system', no model or backbone of this"):
        TrainedDetector.load(folder).backbone.extractor()
    assert not marker.exists()
    with pytest.raises(ValueError, match=r"must return a torch\.nn\.Module"):
        Backbone.load(folder, trusted=["os:system"]).extractor()
    assert marker.exists()


def test_the_module_of_an_untrusted_class_is_not_imported(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    (tmp_path / "hostile.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    save(tmp_path / "detector")
    rewrite(tmp_path / "detector", with_class("hostile:Thing"))
    with pytest.raises(TrustError, match="'hostile:Thing'"):
        TrainedDetector.load(tmp_path / "detector")
    assert not marker.exists()
    assert "hostile" not in sys.modules


TRICKS = [
    "dfkde.trained:import_module",
    "dfkde.density:BaseEstimator",
    "dfkde.baselines:LedoitWolf",
    "dfkde.trained:os.system",
    "dfkde.trained:os",
    "dfkde.backbones.loading:load_backbone",
    "dfkde.backbones.loading:import_module",
    "dfkde.baselines:KNN.__init__",
    "dfkde.density:KNN",
    "dfkde:import_module",
    "dfkde.baselines",
    "dfkde.baselines:KNN ",
    "dfkde.baselines.os:system",
    "dfkde/../evil.py:build",
    "dfkde.baselines:KNN\nos:system",
    "os:system",
    "",
]


@pytest.mark.parametrize("name", TRICKS)
def test_what_merely_looks_like_our_own_is_refused(tmp_path, name):
    for change, load in (
        (with_class(name), TrainedDetector.load),
        (with_factory(name), TrainedDetector.load),
        (with_factory(name), Backbone.load),
    ):
        save(tmp_path)
        rewrite(tmp_path, change)
        with pytest.raises(TrustError) as error:
            load(tmp_path)
        assert repr(name) in str(error.value)
        assert "\n" not in str(error.value)


def nested(state, arrays):
    state["localizer"]["attributes"]["model_"] = {"class": "a:B", "params": {}, "attributes": {}}


def as_scores(state, arrays):
    state["train_scores"] = {"class": "a:B", "params": {}, "attributes": {}}


@pytest.mark.parametrize("change", [nested, as_scores])
def test_a_class_is_found_wherever_one_is_built(tmp_path, change):
    save(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(TrustError, match="asks for 'a:B'"):
        TrainedDetector.load(tmp_path)


@pytest.mark.parametrize("value", [None, 3, ["os:system"], {"a": 1}])
@pytest.mark.parametrize("change", [with_class, with_factory])
def test_a_name_that_is_no_text(tmp_path, change, value):
    save(tmp_path)
    rewrite(tmp_path, change(value))
    with pytest.raises(ValueError, match=r"there is no detector in .* must be named by a text"):
        TrainedDetector.load(tmp_path, trusted=["os:system"])


@pytest.mark.parametrize(
    "name",
    ["anomaly_score", "_fit", "__class__", "__dict__", "centred_", "norm_", "__init_", "mean"],
)
def test_no_method_and_nothing_private_is_overwritten(tmp_path, name):
    save(tmp_path, Centroid())

    def change(state, arrays):
        state["model"]["attributes"][name] = {"value": 1}

    rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=rf"model\.{name} must be an attribute that a fitted"):
        TrainedDetector.load(tmp_path, trusted=[CENTROID])


def test_what_is_trusted_is_built_to_equal_scores(tmp_path):
    saved = save(tmp_path, Centroid(), factory=TINY)
    assert names_to_trust(tmp_path) == [CENTROID, TINY]
    loaded = TrainedDetector.load(tmp_path, trusted=(CENTROID, TINY))
    assert type(loaded.model) is Centroid
    expected = saved.model.anomaly_score(POOLED)
    np.testing.assert_array_equal(loaded.model.anomaly_score(POOLED), expected)
    assert Backbone.load(tmp_path, trusted=[TINY]) == saved.backbone
    with pytest.raises(ValueError, match=r"must be the one of training, SHA-256 0+, got"):
        loaded.backbone.extractor()  # built, as the digest shows


def test_our_own_need_no_trust(tmp_path):
    save(tmp_path, Gaussian())
    assert names_to_trust(tmp_path) == []


def test_all_that_needs_trust_is_named_at_once(tmp_path):
    save(tmp_path, Centroid(), factory=TINY)
    expected = (
        f"the detector in '{tmp_path}' asks for '{CENTROID}', '{TINY}', no model or backbone of"
        " this project, and what it names would run; if you trust that code, allow it by"
        f" trusted={CENTROID},{TINY} on the command line or trusted=('{CENTROID}', '{TINY}') in"
        " Python"
    )
    for load in (TrainedDetector.load, Backbone.load):
        with pytest.raises(TrustError) as error:
            load(tmp_path)
        assert str(error.value) == expected


def test_what_was_trusted_already_stays_in_the_advice(tmp_path):
    save(tmp_path, Centroid(), factory=TINY)
    with pytest.raises(TrustError, match=f"asks for '{CENTROID}', no .* by trusted={TINY},") as e:
        TrainedDetector.load(tmp_path, trusted=[TINY])
    assert f"trusted=('{TINY}', '{CENTROID}') in Python" in str(e.value)


def test_the_backbone_alone_needs_no_trust_in_the_model(tmp_path):
    saved = save(tmp_path, Centroid())
    assert Backbone.load(tmp_path) == saved.backbone


@pytest.mark.parametrize("trusted", ["os:system", "xos:systemx", ""])
def test_one_text_is_no_list_of_names(tmp_path, trusted):
    save(tmp_path)
    rewrite(tmp_path, with_factory("os:system"))
    for load in (TrainedDetector.load, Backbone.load):
        with pytest.raises(TrustError, match=rf"trusted must be several names, .* '{trusted}'$"):
            load(tmp_path, trusted=trusted)


def test_advice_can_be_pasted_into_a_shell():
    with pytest.raises(TrustError) as error:
        check_trusted(["a;b:c", "d\n\x1b:e"], ["f:g"], source="x", option="--trusted ")
    assert "allow it by --trusted f:g 'a;b:c' ''\"'\"'d\\n\\x1b:e'\"'\"'' on" in str(error.value)
    assert str(error.value).isprintable()
    assert untrusted(["b:c", "a:b", "b:c", *ESTIMATORS, *FACTORIES], ["a:b"]) == ["b:c"]


def flipped(path, place, bit):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("name", [STATE, ARRAYS])
def test_any_flipped_bit_is_found(tmp_path, name):
    save(tmp_path / "saved")
    content = (tmp_path / "saved" / name).read_bytes()
    random = np.random.default_rng(1)
    places = {0, len(content) // 2, len(content) - 1, *random.integers(len(content), size=150)}
    for place in sorted(map(int, places)):
        folder = tmp_path / "flipped"
        shutil.copytree(tmp_path / "saved", folder, dirs_exist_ok=True)
        flipped(folder / name, place, int(random.integers(8)))
        with pytest.raises(ValueError, match=r"there is no detector in .* that can be") as error:
            TrainedDetector.load(folder)
        assert "\n" not in str(error.value), place


def test_a_changed_number_is_found(tmp_path):
    save(tmp_path)
    text = (tmp_path / STATE).read_text()
    (tmp_path / STATE).write_text(text.replace('"image_size": 64', '"image_size": 65'))
    for load in (TrainedDetector.load, Backbone.load):
        with pytest.raises(ValueError, match=r"detector\.json must be as it was saved"):
            load(tmp_path)


def test_the_arrays_of_another_detector_are_refused(tmp_path):
    """Of equal names and shapes: nothing but the checksum differs."""
    save(tmp_path / "one")
    other = load_file(tmp_path / "one" / ARRAYS)
    save_file({name: array + 1 for name, array in other.items()}, tmp_path / "one" / ARRAYS)
    message = r"no detector in .*: detector\.safetensors must be the one that was saved with"
    with pytest.raises(ValueError, match=message):
        TrainedDetector.load(tmp_path / "one")


def test_the_checksum_is_of_settings_whose_keys_are_text_as_they_are_read(tmp_path):
    model = Constant().fit(POOLED)
    backbone = Backbone(LITE, {}, None, ["bn2"], [0.5] * 3, [0.5] * 3, digest="0" * 64)
    inputs = {2: "a", 10: "b", "c": float("nan")}
    TrainedDetector(model, None, backbone, inputs, model.anomaly_score(POOLED)).save(tmp_path)
    assert list(TrainedDetector.load(tmp_path).inputs) == ["2", "10", "c"]


def test_json_too_deep_to_read_is_refused(tmp_path):
    (tmp_path / STATE).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"there is no detector in .*RecursionError"):
        TrainedDetector.load(tmp_path)


def test_a_trusted_factory_is_built(tmp_path):
    save(tmp_path, factory=TINY)
    module = dfkde.load_backbone(TINY, arguments={}, weights=None)
    digest = dfkde.FeatureExtractor(module, ["features"], mean=[0.5] * 3, std=[0.5] * 3).digest

    def change(state, arrays):
        state["backbone"]["digest"] = digest

    rewrite(tmp_path, change)
    extractor = Backbone.load(tmp_path, trusted=[TINY]).extractor()
    assert isinstance(extractor.module, torch.nn.Module)
