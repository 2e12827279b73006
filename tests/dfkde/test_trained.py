"""Detectors saved and loaded: equal to the bit, in a fresh process, without pickle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from dfkde import (
    DFKDE,
    KNN,
    AnomalyDetector,
    Backbone,
    Constant,
    DFKDEResidual,
    FeatureExtractor,
    Gaussian,
    TrainedDetector,
    load_backbone,
    localizer,
)
from dfkde.localizers import PatchDensity
from tests.saved import rewrite, with_class

LITE = "dfkde.backbones.efficientnet_lite:efficientnet_lite"
BACKBONE = Backbone(
    factory=LITE,
    arguments={"variant": 0},
    weights=None,
    layers=["bn2"],
    mean=[0.5] * 3,
    std=[0.5] * 3,
    digest="0" * 64,
)
MODELS = [DFKDE(4), DFKDEResidual(4, random_state=3), KNN(), Gaussian(), Constant()]
SCORE = """
import sys, pickle
from pathlib import Path
import numpy as np
pickle.Unpickler = pickle.load = pickle.loads = None
from dfkde import TrainedDetector
folder = Path(sys.argv[1])
detector = TrainedDetector.load(folder)
maps = np.load(folder / "maps.npy")
np.save(folder / "scores.npy", detector.model.anomaly_score(maps.mean(axis=(2, 3))))
np.save(folder / "anomaly_maps.npy", [detector.localizer.anomaly_map(one) for one in maps])
assert detector.localizer.get_params() is not None
assert "torch" not in sys.modules
"""


def feature_maps(n=40, d=20, *, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d, 2, 3)).astype(np.float32)


def trained(model, name="occlusion"):
    maps = feature_maps()
    pooled = maps.mean(axis=(2, 3))
    model = clone(model).fit(pooled)
    return TrainedDetector(
        model=model,
        localizer=localizer(name) and localizer(name).fit(model, pooled, maps),
        backbone=BACKBONE,
        inputs={"image_size": 256, "resize": "pil"},
        train_scores=model.anomaly_score(pooled),
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["occlusion", "patch_density", "uniform"])
def test_loads_to_equal_scores_and_maps(model, name, tmp_path):
    saved, maps = trained(model, name), feature_maps(seed=1)
    saved.save(tmp_path / "new")
    loaded = TrainedDetector.load(tmp_path / "new")
    pooled = maps.mean(axis=(2, 3))
    expected = saved.model.anomaly_score(pooled)
    np.testing.assert_array_equal(loaded.model.anomaly_score(pooled), expected)
    for one in maps[:5]:
        expected = saved.localizer.anomaly_map(one)
        np.testing.assert_array_equal(loaded.localizer.anomaly_map(one), expected)
    np.testing.assert_array_equal(loaded.train_scores, saved.train_scores)
    assert (loaded.backbone, loaded.inputs) == (saved.backbone, saved.inputs)
    assert loaded.model.get_params() == saved.model.get_params()


def test_a_fresh_process_gives_equal_scores_without_pickle(tmp_path):
    saved, maps = trained(DFKDEResidual()), feature_maps(seed=1)
    saved.save(tmp_path)
    np.save(tmp_path / "maps.npy", maps)
    subprocess.run([sys.executable, "-c", SCORE, str(tmp_path)], check=True)
    scores, anomaly_maps = np.load(tmp_path / "scores.npy"), np.load(tmp_path / "anomaly_maps.npy")
    np.testing.assert_array_equal(scores, saved.model.anomaly_score(maps.mean(axis=(2, 3))))
    expected = [saved.localizer.anomaly_map(one) for one in maps]
    np.testing.assert_array_equal(anomaly_maps, expected)


def test_the_localizers_model_is_the_model_and_saved_once(tmp_path):
    trained(Gaussian()).save(tmp_path)
    loaded = TrainedDetector.load(tmp_path)
    assert loaded.localizer.model_ is loaded.model
    state = json.loads((tmp_path / "detector.json").read_text())
    assert state["localizer"]["attributes"]["model_"] == {"same_as": "model"}


def test_no_localizer(tmp_path):
    trained(KNN(), "none").save(tmp_path)
    assert TrainedDetector.load(tmp_path).localizer is None


def test_names_of_features_are_kept(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(feature_maps().mean(axis=(2, 3)), columns=[f"f{i}" for i in range(20)])
    detector = trained(KNN())
    detector.model.fit(frame)
    detector.save(tmp_path)
    loaded = TrainedDetector.load(tmp_path)
    np.testing.assert_array_equal(loaded.model.feature_names_in_, frame.columns)
    np.testing.assert_array_equal(
        loaded.model.score_samples(frame), detector.model.score_samples(frame)
    )


class KeepsADict(AnomalyDetector):
    """Keeps what cannot be saved."""

    def _fit(self, X):
        self.order_ = {"lists": []}

    def _score_samples(self, X):
        return np.zeros(len(X))


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(
        TypeError, match=r"model\.order_ cannot be saved: a model may keep arrays, .* got dict"
    ):
        trained(KeepsADict()).save(tmp_path)
    with pytest.raises(TypeError, match=r"model\.random_state cannot be saved: .*got RandomState"):
        trained(DFKDE(4, random_state=np.random.RandomState(0))).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_class_of_a_script_is_refused(tmp_path):
    script = type("Script", (KNN,), {"__module__": "__main__"})
    with pytest.raises(TypeError, match="model: Script must be defined in a module"):
        trained(script()).save(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", "class os:system is no scikit-learn estimator"),
        ("dfkde.density:PaDiM", "class dfkde.density:PaDiM cannot be imported"),
        ("nowhere:Model", "class nowhere:Model cannot be imported: No module named 'nowhere'"),
    ],
)
def test_only_estimators_are_built(name, message, tmp_path):
    trained(KNN()).save(tmp_path)
    rewrite(tmp_path, with_class(name))
    with pytest.raises(ValueError, match=message):
        TrainedDetector.load(tmp_path, trusted=[name])


def test_what_is_no_detector(tmp_path):
    with pytest.raises(ValueError, match=r"there is no detector in .* no detector\.json"):
        TrainedDetector.load(tmp_path)
    (tmp_path / "detector.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match=r"detector\.json must be of format 2, got 99"):
        TrainedDetector.load(tmp_path)


def without(key):
    def change(state, arrays):
        del state[key]

    return change


def with_field(state, arrays):
    state["backbone"]["colour"] = "grey"


def without_parameter(state, arrays):
    state["model"]["params"]["bandwidth"] = 1


def without_array(state, arrays):
    del arrays["model.points_"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("format"), "KeyError: 'format'"),
        (without("model"), "KeyError: 'model'"),
        (without("backbone"), "KeyError: 'backbone'"),
        (without("inputs"), "KeyError: 'inputs'"),
        (with_field, "TypeError: .* unexpected keyword argument 'colour'"),
        (without_parameter, "TypeError: KNN\\(\\) takes no arguments"),
        (without_array, "KeyError: 'model.points_'"),
    ],
)
def test_a_damaged_detector_is_reported_in_one_line(tmp_path, change, message):
    trained(KNN()).save(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=f"there is no detector in .*: {message}") as error:
        TrainedDetector.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["detector.json", "detector.safetensors"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, name):
    trained(KNN()).save(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"there is no detector in .*: it has no {name}"):
        TrainedDetector.load(tmp_path)


@pytest.mark.parametrize("name", ["detector.json", "detector.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 100])
def test_a_detector_cut_short_is_reported_in_one_line(tmp_path, name, keep):
    trained(KNN()).save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:keep])
    with pytest.raises(ValueError, match=r"there is no detector in .* that can be") as error:
        TrainedDetector.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("step", [1, 2])
def test_a_save_that_is_broken_off_leaves_no_detector(tmp_path, monkeypatch, step):
    """Not half of the new one, nor the old one's description beside new arrays."""
    trained(KNN()).save(tmp_path)
    write, written = Path.write_bytes, []

    def full(path, content):
        written.append(path)
        if len(written) < step:
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        trained(DFKDE(4)).save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="there is no detector in"):
        TrainedDetector.load(tmp_path)
    trained(DFKDE(4)).save(tmp_path)
    assert isinstance(TrainedDetector.load(tmp_path).model, DFKDE)


def test_the_backbone_alone_is_read_without_the_model(tmp_path):
    trained(KNN()).save(tmp_path)
    (tmp_path / "detector.safetensors").unlink()
    assert Backbone.load(tmp_path) == BACKBONE


def test_the_backbone_is_built_again_and_checked():
    module = load_backbone(LITE, arguments={"variant": 0}, weights=None)
    digest = FeatureExtractor(module, ["bn2"]).digest
    description = {**vars(BACKBONE), "digest": digest}
    extractor = Backbone(**description).extractor()
    assert (extractor.layers, extractor.mean) == (("bn2",), (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=f"must be the one of training, SHA-256 0+, got {digest}"):
        BACKBONE.extractor()


def test_densities_at_positions_read_back_without_their_norms():
    """Detectors that older versions saved lack them."""
    maps = np.random.default_rng(0).normal(size=(8, 6, 3, 3))
    localizer = PatchDensity(n_components=2).fit(Constant(), maps.mean(axis=(2, 3)), maps)
    expected = localizer.anomaly_map(maps[0])
    del localizer.norms_
    np.testing.assert_array_equal(localizer.anomaly_map(maps[0]), expected)
