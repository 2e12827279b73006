"""Fingerprints, splits and draws of sound data stay what they were."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.data import load_split
from harness.data.load import dataset_settings, survey
from harness.data.official import split_digest
from tests.data.bitmaps import mvtec, own

# Taken from the program as it was, with these very files.
BEFORE = [
    (
        *("mvtec", "bottle", 42, "6012ba9086a81faa"),
        "096a0d10e87444d5dcd7b0cf5b62099a4686694a2b3f4dc76bd23f74b027b005",
    ),
    (
        *("folder", "all", 42, "4c19bb80cf87be0b"),
        "6d5cf7dc6952567648156ff5caba22c9df34f9ed24ef73ccf698b617ada02d68",
    ),
    (
        *("folder", "all", 7, "7abbe446cb2635e7"),
        "6d5cf7dc6952567648156ff5caba22c9df34f9ed24ef73ccf698b617ada02d68",
    ),
    (
        *("elpv", "mono", 42, "ad4ecaf8ef128d71"),
        "224c7846b68a3851fde6f05842315ee5a2b2c298ce14e339b6c0ae5d72bd597b",
    ),
    (
        *("elpv", "poly", 3, "eb0d2c9aaf1111e8"),
        "0ffed94269120f43ff3979c3eb3ec728c72f950fd235632104e0e604a615400f",
    ),
]


def settings(name, folder):
    if name == "elpv":
        return dataset_settings("elpv")
    make = {"mvtec": mvtec, "folder": own}[name]
    return replace(dataset_settings(name, root=str(make(folder))), official=False)


@pytest.mark.parametrize(("name", "category", "seed", "split", "fingerprint"), BEFORE)
def test_fingerprints_and_splits_are_what_they_were(
    name, category, seed, split, fingerprint, tmp_path
):
    found = survey(settings(name, tmp_path), category, seed=seed)
    assert (found.fingerprint, split_digest(found.listing)) == (fingerprint, split)


def test_draws_are_what_they_were(tmp_path):
    dataset = settings("folder", tmp_path)
    split = load_split(dataset, "all", seed=42, n_train=5, train_contamination=0.3)
    drawn = ["abnormal/spot/001", "abnormal/spot/002", *(f"normal/0{n}" for n in DRAWN)]
    assert [sample.name for sample in split.train] == [f"{name}.bmp" for name in drawn]


DRAWN = ("00", "01", "03", "12", "15")
