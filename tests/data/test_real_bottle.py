"""The real `bottle`, where it is at hand, in its own layout and in the two others."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from harness.config import DatasetConfig
from harness.data import DataError, load_split
from harness.data.__main__ import main
from harness.data.load import dataset_settings, verify
from harness.data.readers import HEADER

pytestmark = pytest.mark.skipif(
    "DFKDE_TEST_DATA" not in os.environ, reason="DFKDE_TEST_DATA is not set"
)
REAL = Path(os.environ.get("DFKDE_TEST_DATA", ""))


@pytest.fixture(scope="module")
def _shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _one_cache(_shared_cache, user_cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(_shared_cache))


def _mvtec(root: str) -> DatasetConfig:
    return dataset_settings("mvtec", root=str(REAL / root))


@pytest.mark.slow
def test_the_original_bottle_is_official(capsys):
    root = f"dataset.root={REAL / 'mvtec_ad'}"
    assert main(["verify", "dataset=mvtec", "category=bottle", root]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row == ["bottle", "209", "20", "63", "63", "9b551eac1ef1", "official"]
    assert load_split(_mvtec("mvtec_ad"), "bottle", seed=42).official


def test_a_resized_copy_is_not_official():
    with pytest.raises(DataError, match="256x256, published as 900x900"):
        load_split(_mvtec("mvtec_ad_256"), "bottle", seed=42)
    split = load_split(replace(_mvtec("mvtec_ad_256"), official=False), "pill", seed=42)
    assert (len(split.train), len(split.test)) == (267, 26 + 141)


def test_masks_swapped_between_defect_types_change_the_fingerprint(tmp_path):
    root = tmp_path / "mvtec"
    shutil.copytree(REAL / "mvtec_ad/bottle", root / "bottle", copy_function=os.symlink)
    masks = root / "bottle/ground_truth"
    one, other = masks / "broken_large/000_mask.png", masks / "broken_small/000_mask.png"
    one.rename(root / "x")
    other.rename(one)
    (root / "x").rename(other)
    with pytest.raises(DataError, match=r"bottle: has the fingerprint .*: a file was changed"):
        load_split(dataset_settings("mvtec", root=str(root)), "bottle", seed=42)


def _convert(path: Path, target: Path, **options: object) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(path) as image:
        image.save(target, **options)


def _counts(dataset: DatasetConfig, category: str) -> tuple[int, ...]:
    """Verify a category that no one published; return its four counts."""
    found = verify(replace(dataset, official=False, categories=[category]), category, seed=42)
    rules = [problem.rule for problem in found.problems]
    assert rules == ["is not a category of a published dataset"]
    return found.counts


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_the_real_bottle_in_the_layout_of_btad(tmp_path, ending):
    bottle = REAL / "mvtec_ad_256/bottle"
    folders = {"train/ok": bottle / "train/good", "test/ok": bottle / "test/good"}
    for folder, source in folders.items():
        for path in source.iterdir():
            _convert(path, tmp_path / "04" / folder / f"0{path.stem}.bmp")
    defects = sorted(path for path in bottle.glob("test/*/*") if path.parent.name != "good")
    for number, path in enumerate(defects):
        mask = bottle / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        _convert(path, tmp_path / f"04/test/ko/{number:04}.bmp")
        _convert(mask, tmp_path / f"04/ground_truth/ko/{number:04}{ending}")
    assert _counts(dataset_settings("btad", root=str(tmp_path)), "04") == (209, 20, 63, 63)


def test_the_real_bottle_in_the_layout_of_visa(tmp_path):
    bottle = REAL / "mvtec_ad_256/bottle"
    normal = [("train", path) for path in sorted((bottle / "train/good").iterdir())]
    normal += [("test", path) for path in sorted((bottle / "test/good").iterdir())]
    rows = []
    for number, (split, path) in enumerate(normal):
        rows.append(["bottle", split, "normal", f"bottle/Data/Images/Normal/{number:04}.JPG", ""])
        _convert(path, tmp_path / rows[-1][3], format="JPEG")
    defects = sorted(path for path in bottle.glob("test/*/*") if path.parent.name != "good")
    for number, path in enumerate(defects):
        image = f"bottle/Data/Images/Anomaly/{number:03}.JPG"
        mask = f"bottle/Data/Masks/Anomaly/{number:03}.png"
        rows.append(["bottle", "test", "anomaly", image, mask])
        _convert(path, tmp_path / image, format="JPEG")
        (tmp_path / mask).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(bottle / f"ground_truth/{path.parent.name}/{path.stem}_mask.png") as white:
            white.point(lambda value: min(value, 2)).save(tmp_path / mask)
    (tmp_path / "split_csv").mkdir()
    with (tmp_path / "split_csv/1cls.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *rows])
    assert _counts(dataset_settings("visa", root=str(tmp_path)), "bottle") == (209, 20, 63, 63)
