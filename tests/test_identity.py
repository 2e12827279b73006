"""What a job's identity depends on."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

import harness.run  # noqa: F401 - registers the schema
from dfkde import KNN, Constant
from harness.config import ModelConfig, conf_dir
from harness.experiment import identify, identity, settings
from harness.features.spec import ExtractionSpec


def test_identity_depends_on_what_determines_the_numbers_and_on_nothing_else(job, tmp_path):
    same = identify(job)
    assert same == identify(replace(job, features=replace(job.features, cache=str(tmp_path / "b"))))
    assert same == identify(replace(job, features=replace(job.features, workers=2)))
    moved = shutil.copytree(job.dataset.root, tmp_path / "moved")
    assert same == identify(replace(job, dataset=replace(job.dataset, root=str(moved))))
    others = [
        replace(job, seed=1),
        replace(job, category="grid"),
        replace(job, image_size=32),
        replace(job, center_crop=32),
        replace(job, localizer="none"),
        replace(job, n_train=20),
        replace(job, train_contamination=0.1),
        replace(job, dataset=replace(job.dataset, bits=12)),
        replace(job, pixel_resolution=32),
        replace(job, threshold_quantile=0.9),
        replace(job, model=replace(job.model, params={"n_components": 5})),
        replace(job, model=replace(job.model, params={"n_components": 4, "random_state": 7})),
        replace(job, backbone=replace(job.backbone, mean=[0.4, 0.5, 0.5])),
        replace(job, features=replace(job.features, resize="float_antialias")),
    ]
    assert len({same, *map(identify, others)}) == len(others) + 1
    image = next((moved / job.category / "train" / "good").iterdir())
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    assert same != identify(replace(job, dataset=replace(job.dataset, root=str(moved))))


@pytest.fixture
def spec():
    return ExtractionSpec(
        weights_digest="ab" * 32,
        network_digest="ef" * 32,
        layers=("features",),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        image_size=256,
        resize="pil",
        engine="torch",
        precision="fp32",
        device="cpu",
        batch=4,
        versions=("torch 2.14.1",),
        code="0123",
    )


def test_identity_depends_on_how_features_are_made(job, spec):
    changes = [
        {},
        {"weights_digest": "ba" * 32},
        {"network_digest": "fe" * 32},
        {"engine": "onnxruntime"},
        {"precision": "bf16"},
        {"device": "cuda"},
        {"layers": ("features", "0")},
        {"std": (0.25, 0.25, 0.5)},
    ]
    found = {identity(job, replace(spec, **change), fingerprint="cd" * 32) for change in changes}
    assert len(found | {identity(job, spec, fingerprint="dc" * 32)}) == len(changes) + 1


def two_kinds(kind="a", mode=None):
    """Build a model by a function: what it takes need not be a parameter of the model."""
    return {"a": Constant, "b": KNN}[kind]()


class Moody(Constant):
    def __init__(self, mode=None):
        self.mode = mode


def test_identity_depends_on_all_that_builds_the_model(job, spec):
    models = [
        *(ModelConfig("m", "tests.test_identity:two_kinds", {"kind": kind}) for kind in "ab"),
        *(ModelConfig("m", "tests.test_identity:Moody", {"mode": mode}) for mode in (None, "None")),
        *(ModelConfig("m", "tests.test_identity:Moody", {"mode": mode}) for mode in (1, "1")),
    ]
    found = {identity(replace(job, model=model), spec, fingerprint="") for model in models}
    assert len(found) == len(models)


def test_identity_does_not_depend_on_versions(job, spec):
    """They decide last digits; only features of two versions must not meet, so the cache knows."""
    other = replace(spec, versions=("torch 3.0",), code="4567")
    assert other.key != spec.key
    one, two = (identity(job, each, fingerprint="cd" * 32) for each in (spec, other))
    assert one == two


STORED = [
    (
        "dataset=mvtec category=bottle",
        "6df8cb9126a2fac18a39d618752df3b2bf8863f58bc354ea94d4b9c2ac4e5b67",
    ),
    (
        "dataset=btad category=01 backbone=wide_resnet50_2 model=dfkde_residual",
        "e06c30c2366a531c0c8b2c6eee602727bb35110ed78430178c5669151b54e55c",
    ),
    (
        "dataset=visa category=candle model=knn localizer=none",
        "7d20dae1ea899d8f6719d60e13d51e6a77a25c6a824bec4069f4e5b8ef1652da",
    ),
    (
        "dataset=folder category=all model=gaussian center_crop=224",
        "f305cdb6852672b99e41322fe501a12b508a123078679de928a7ccd0e7acd4dc",
    ),
    (
        "experiment=demo category=mono",
        "96fc58d4d6a57f12a98a9974fdb9c0f551837bcb7f0f9bf5519ffb8cd14dba5a",
    ),
    (
        "experiment=demo category=poly n_train=20 seed=3 threshold_quantile=0.95",
        "0a3cb54b6403ff95247b9698c2d4a92c3fa81e575dab4bdea34e04fd4339cedd",
    ),
    (
        "category=pill backbone=timm model=constant train_contamination=0.1",
        "7dcd10ed31e717a5241e73d3df22884136803a70273bcd4cb088a04400ac3779",
    ),
]
"""Identities of runs that are stored somewhere, by the command that made them."""


@pytest.mark.parametrize(("command", "stored"), STORED)
def test_identity_stays_what_it_was(command, stored, spec):
    """Runs are skipped by it: it changes with `SCHEMA_VERSION`, and with nothing else.

    A setting that is new in `conf/` leaves it alone as long as it has its default.
    """
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", command.split()))
    assert identity(config.job(), spec, fingerprint="cd" * 32) == stored


def test_seed_of_a_model_stands_for_itself_unless_it_is_another(job, spec):
    seeded = replace(job, model=replace(job.model, params={"random_state": job.seed}))
    assert "model.random_state" not in settings(seeded, spec)
    other = replace(job, model=replace(job.model, params={"random_state": 7}))
    assert settings(other, spec)["model.random_state"] == "7"


def test_networks_own_normalisation_is_the_same_written_out(job, spec):
    own = replace(job, backbone=replace(job.backbone, mean=None, std=None))
    assert settings(own, spec) == settings(job, spec)
    assert settings(own, spec)["backbone.mean"] == "0.5,0.5,0.5"
    spec = replace(spec, mean=tuple(np.float32([0.485, 0.456, 0.406]).tolist()))
    assert settings(own, spec)["backbone.mean"] == "0.485,0.456,0.406"


def test_which_folder_holds_the_normal_images_is_part_of_the_identity(job, spec):
    folder = replace(job.dataset, reader="folder", normal_dir="a", abnormal_dir="b")
    swapped = replace(folder, normal_dir="b", abnormal_dir="a")
    one, other = (
        identity(replace(job, dataset=dataset), spec, fingerprint="cd" * 32)
        for dataset in (folder, swapped)
    )
    assert one != other


def test_parameters_left_at_their_defaults_share_an_identity_with_the_same_values(job):
    by_default = replace(job, model=replace(job.model, params={}))
    written = replace(job, model=replace(job.model, params={"n_components": 16}))
    assert identify(by_default) == identify(written)
