"""Composing a sweep's jobs by values gives what Hydra composes job by job."""

from __future__ import annotations

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict, read_write

from harness.compose import Composer
from harness.config import conf_dir

JOBS = [
    ["dataset=btad", "category='01'", "seed=7"],
    ["dataset=btad", "category='01'", "seed=8"],
    ["dataset=mvtec", "dataset.root='/somewhere else'", "category='bottle'"],
    ["experiment=mvtec_efficientnet_lite0", "category='bottle'", "model.params.n_components=8"],
    ["+model.params.novel=7", "++model.params.n_components=3"],
    ["backbone=custom", "backbone.factory=a:b", 'backbone.layers=["1","2"]', "seed=3"],
    ["~model.params.max_training_points", "image_size=64"],
]


@pytest.fixture
def loader():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture
def sweep(loader):
    return loader.load_configuration("config", [], RunMode.MULTIRUN)


def by_hydra(loader, sweep, overrides):
    config = loader.load_sweep_config(sweep, overrides)
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config


def test_jobs_are_those_that_hydra_composes(loader, sweep):
    composer = Composer(loader, sweep)
    for overrides in JOBS:
        expected = by_hydra(loader, sweep, overrides)
        found = composer.compose(composer.parse(overrides))
        assert OmegaConf.to_container(found) == OmegaConf.to_container(expected)
        assert OmegaConf.get_type(found) == OmegaConf.get_type(expected)


def test_one_job_changes_no_other(loader, sweep):
    composer = Composer(loader, sweep)
    one, other = (composer.parse([f"seed={n}", f"model.params.n_components={n}"]) for n in (1, 2))
    first = composer.compose(one)
    composer.compose(other)
    assert (first.seed, first.model.params.n_components) == (1, 1)
    assert composer.compose([]).seed == 42
