"""Seeded protocols: each draw has a stream of its own."""

from __future__ import annotations

from pathlib import Path

import elpv_dataset.utils
import numpy as np
import pytest

from harness.data import DataError, load_split, random_stream
from harness.data.load import dataset_settings


@pytest.fixture
def btad(copy):
    return copy("btad")  # 80 normal training images, 32 normal and 4 anomalous test images


def _names(samples):
    return [sample.name for sample in samples]


def test_streams_differ_by_seed_and_name():
    draws = {
        (seed, name): random_stream(seed, name).integers(2**62)
        for seed in (0, 1, 42)
        for name in ("a", "b", "a/b")
    }
    assert len(set(draws.values())) == 9
    assert random_stream(42, "a").integers(2**62) == draws[42, "a"]


def test_a_negative_seed_is_refused():
    with pytest.raises(DataError, match="seed must be at least 0, got -1"):
        random_stream(-1, "a")


def test_few_shot_subsets_are_seeded_and_nested(btad):
    chosen = {n: _names(load_split(btad, "03", seed=42, n_train=n).train) for n in (1, 5, 20, 80)}
    assert [len(names) for names in chosen.values()] == [1, 5, 20, 80]
    assert set(chosen[1]) < set(chosen[5]) < set(chosen[20]) < set(chosen[80])
    assert all(names == sorted(names) for names in chosen.values())
    assert chosen[5] == _names(load_split(btad, "03", seed=42, n_train=5).train)
    assert chosen[5] != _names(load_split(btad, "03", seed=43, n_train=5).train)


@pytest.mark.parametrize("n_train", [0, -1, 81])
def test_n_train_out_of_range(btad, n_train):
    with pytest.raises(DataError, match=f"n_train must be between 1 and the 80 .*got {n_train}"):
        load_split(btad, "03", seed=42, n_train=n_train)


def test_few_shot_leaves_test_and_fingerprint_alone(btad):
    whole, few = load_split(btad, "03", seed=42), load_split(btad, "03", seed=42, n_train=3)
    assert few.test == whole.test
    assert few.fingerprint == whole.fingerprint


def test_contamination_moves_anomalous_images(btad):
    clean = load_split(btad, "03", seed=42)
    mixed = load_split(btad, "03", seed=42, train_contamination=0.03)
    moved = [sample for sample in mixed.train if sample.anomalous]
    assert len(moved) == 2  # of 82 images: 2.4 %, the nearest whole number to 3 %
    assert set(mixed.train) == {*clean.train, *moved}
    assert set(mixed.test) == set(clean.test) - set(moved)
    assert _names(mixed.train) == sorted(_names(mixed.train))


def test_the_share_is_that_of_the_new_training_set(btad):
    split = load_split(btad, "03", seed=42, n_train=9, train_contamination=0.25)
    assert [sample.anomalous for sample in split.train].count(True) == 3
    assert len(split.train) == 12


def test_contamination_does_not_move_the_few_shot_draw(btad):
    clean = load_split(btad, "03", seed=42, n_train=9)
    mixed = load_split(btad, "03", seed=42, n_train=9, train_contamination=0.25)
    assert set(clean.train) < set(mixed.train)


@pytest.mark.parametrize(
    ("share", "rule"),
    [
        (-0.1, "at least 0 and below 1, got -0.1"),
        (1.0, "at least 0 and below 1, got 1.0"),
        (float("nan"), "at least 0 and below 1, got nan"),
        (0.001, "moves 0 of the 4 anomalous images"),
        (0.05, "moves 4 of the 4 anomalous images"),
    ],
)
def test_contamination_out_of_range(btad, share, rule):
    with pytest.raises(DataError, match=rule):
        load_split(btad, "03", seed=42, train_contamination=share)


def test_elpv_follows_its_protocol():
    elpv = dataset_settings("elpv")
    numbers = {"mono": (588, 313), "poly": (920, 402)}
    for category, (normal, defective) in numbers.items():
        split = load_split(elpv, category, seed=42)
        assert len(split.train) == normal * 6 // 10
        assert not any(sample.anomalous for sample in split.train)
        anomalous = [sample.anomalous for sample in split.test]
        assert anomalous.count(True) == defective
        assert anomalous.count(False) == normal - len(split.train)
        assert not set(_names(split.train)) & set(_names(split.test))
        assert all(sample.mask_path is None for sample in split.test)
        assert split.official


def test_elpv_labels_are_the_packages_own():
    folder = Path(elpv_dataset.utils.__file__).parent / "data"
    # As in the package's own loader, which would decode all 2,624 images.
    labels = np.genfromtxt(folder / "labels.csv", dtype=["U19", "f8", "U4"], encoding="utf-8")
    expected = {str(p): bool(v) for p, v, kind in labels if kind == "mono" and v in (0, 1)}
    split = load_split(dataset_settings("elpv"), "mono", seed=42)
    assert {s.name: s.anomalous for s in (*split.train, *split.test)} == expected
    assert all(sample.path == folder / sample.name for sample in split.test)


def test_elpv_splits_by_seed_but_keeps_its_fingerprint():
    elpv = dataset_settings("elpv")
    one, other = (load_split(elpv, "mono", seed=seed) for seed in (1, 2))
    assert set(_names(one.train)) != set(_names(other.train))
    assert one.fingerprint == other.fingerprint
