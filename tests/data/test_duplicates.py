"""Images of equal bytes stay together in every draw."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from harness.config import ModelConfig
from harness.data import DataError, load_split
from harness.data.load import dataset_settings
from harness.data.split import draw_together
from harness.fitting import Fitted, folds, n_distinct, threshold_of
from tests.conftest import tiny_job
from tests.data.bitmaps import own


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.randoms(), st.data())
def test_what_is_drawn_together(keys, random, data):
    order = random.sample(range(len(keys)), len(keys))
    count = data.draw(st.integers(0, len(keys)))
    chosen = draw_together(order, keys, count=count)
    sides = Counter((keys[k], k in chosen) for k in range(len(keys)))
    assert len(sides) == len({*keys})  # no key on both sides
    assert len(chosen) <= count
    left = [n for (_, taken), n in sides.items() if not taken]
    assert all(len(chosen) + n > count for n in left)  # none would have fitted
    first = order[:count]
    if {keys[k] for k in first}.isdisjoint(keys[k] for k in order[count:]):
        assert chosen == {*first}  # a draw that was sound stays what it was


@pytest.fixture
def doubled(tmp_path):
    """20 normal images, 3 of them twice and one three times, and 4 anomalous ones, one twice."""
    root = own(tmp_path)
    for number in (0, 3, 5, 9):
        shutil.copy(root / f"normal/{number:03}.bmp", root / f"normal/{number:03}_again.bmp")
    shutil.copy(root / "normal/009.bmp", root / "normal/009_more.bmp")
    shutil.copy(root / "abnormal/spot/001.bmp", root / "abnormal/spot/001_again.bmp")
    shutil.copy(root / "masks/spot/001.bmp", root / "masks/spot/001_again.bmp")
    return dataset_settings("folder", root=str(root))


def digests(samples):
    return {sample.digest for sample in samples}


@pytest.mark.parametrize("seed", range(8))
def test_duplicates_are_on_one_side_of_a_drawn_split(doubled, seed):
    split = load_split(doubled, "all", seed=seed)
    assert digests(split.train).isdisjoint(digests(split.test))
    assert 13 <= len(split.train) <= 15  # 60 % of 25 are 15
    assert len(split.train + split.test) == 25 + 5
    assert split.n_duplicates == 6
    [note] = split.notes
    assert note.startswith("folder/all: images with the bytes of another one: 6; equal ones")


@pytest.mark.parametrize("seed", range(8))
def test_duplicates_contaminate_together(doubled, seed):
    split = load_split(doubled, "all", seed=seed, train_contamination=0.15)
    moved = [sample for sample in split.train if sample.anomalous]
    assert 1 <= len(moved) <= 3
    assert digests(split.train).isdisjoint(digests(split.test))


def test_nothing_but_duplicates_cannot_be_split(tmp_path):
    root = own(tmp_path)
    for path in sorted(root.glob("normal/*"))[1:]:
        shutil.copy(root / "normal/000.bmp", path)
    with pytest.raises(DataError, match=r"trains 0 of 20 .* each, and duplicates go together"):
        load_split(dataset_settings("folder", root=str(root)), "all", seed=42)


def test_an_image_that_is_normal_and_anomalous_is_still_refused(doubled):
    root = Path(doubled.root)
    shutil.copy(root / "normal/009.bmp", root / "abnormal/spot/001.bmp")
    with pytest.raises(
        DataError, match=r"001.bmp: is .* image identical to the .* image normal/009"
    ):
        load_split(doubled, "all", seed=42)


def fitted(dataset, tmp_path, **changes):
    """A job whose training images have random features, equal where their bytes are."""
    knn = ModelConfig("knn", "dfkde.baselines:KNN")
    job = replace(tiny_job(tmp_path, tmp_path), dataset=dataset, model=knn, **changes)
    split = load_split(dataset, "all", seed=42)
    of = {d: np.random.default_rng(k).normal(size=4) for k, d in enumerate(digests(split.train))}
    train = np.float32([of[sample.digest] for sample in split.train])
    return Fitted(job, split, reader=None, model=None, train=train, n_extracted=0)


def test_duplicates_are_held_out_together(doubled, tmp_path):
    one = fitted(doubled, tmp_path)
    seen = []
    for rest, held_out in folds(one):
        out = digests(one.split.train[k] for k in held_out)
        assert out.isdisjoint(digests(rest.split.train))
        assert len(rest.split.train) == len(rest.train) == len(one.train) - len(held_out)
        seen += held_out.tolist()
    assert sorted(seen) == list(range(len(one.train)))


def test_a_threshold_is_no_longer_that_of_images_the_model_has_seen(doubled, tmp_path):
    """To its own copy, an image has no distance at all."""
    one = fitted(doubled, tmp_path, threshold_quantile=0.01)
    assert n_distinct(one.split) < len(one.train)
    assert threshold_of(one) > 0.1


def test_without_duplicates_the_folds_are_what_they_were(tmp_path):
    one = fitted(dataset_settings("folder", root=str(own(tmp_path / "own"))), tmp_path)
    parts = KFold(10, shuffle=True, random_state=42).split(one.train)
    for (rest, held_out), (expected_rest, expected) in zip(folds(one), parts, strict=True):
        np.testing.assert_array_equal(held_out, expected)
        np.testing.assert_array_equal(rest.train, one.train[expected_rest])
