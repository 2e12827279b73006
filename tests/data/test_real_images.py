"""The real `bottle`, where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from harness.confdir import conf_dir
from harness.config import DatasetConfig
from harness.data import DataError, load_split

REAL = os.environ.get("DFKDE_TEST_DATA")
pytestmark = pytest.mark.skipif(REAL is None, reason="DFKDE_TEST_DATA is not set")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def _mvtec(root: str) -> DatasetConfig:
    settings = yaml.safe_load((conf_dir() / "dataset" / "mvtec.yaml").read_text())
    return DatasetConfig(**settings, root=str(Path(REAL or "") / root))


def test_the_original_bottle_is_official():
    split = load_split(_mvtec("mvtec_ad"), "bottle", seed=42)
    assert split.official
    assert len(split.train) == 209
    assert [sample.anomalous for sample in split.test].count(True) == 63
    assert len(split.test) == 83


def test_a_resized_copy_is_not_official():
    with pytest.raises(DataError, match="256x256, published as 900x900"):
        load_split(_mvtec("mvtec_ad_256"), "bottle", seed=42)
