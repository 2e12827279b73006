"""Synthetic datasets have the quirks of the published ones."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from harness.data import DataError, load_split, read_image, read_mask
from harness.data.load import dataset_settings
from harness.data.official import PUBLISHED
from harness.data.synthetic import Plan, as_published, write_synthetic

TINY = Plan(scale=0.01, side=16)


@pytest.mark.parametrize("name", ["mvtec", "btad", "visa"])
def test_every_category_loads_as_unofficial_and_as_published(name, tmp_path, monkeypatch):
    write_synthetic(tmp_path, name, plan=TINY)
    dataset = dataset_settings(name, root=str(tmp_path))
    with pytest.raises(DataError, match="differs from the published dataset"):
        load_split(dataset, dataset.categories[0], seed=42)
    monkeypatch.setitem(PUBLISHED, name, as_published(name, TINY))
    for category in dataset.categories:
        assert load_split(dataset, category, seed=42).official


def test_equal_plans_give_equal_bytes(tmp_path):
    digests = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        plan = Plan(scale=0.01, side=16, seed=seed)
        write_synthetic(tmp_path / folder, "btad", categories=["02"], plan=plan)
        files = sorted((tmp_path / folder).rglob("*.*"))
        digests.append([path.read_bytes() for path in files])
    assert digests[0] == digests[1]
    assert all(a != b for a, b in zip(digests[0], digests[2], strict=True))


def test_a_category_does_not_depend_on_the_others(tmp_path):
    for folder, categories in (("one", ["grid"]), ("two", ["bottle", "grid"])):
        write_synthetic(tmp_path / folder, "mvtec", categories=categories, plan=TINY)
    name = "grid/train/good/000.png"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_channels_formats_and_mask_values(tmp_path):
    write_synthetic(tmp_path, "mvtec", categories=["grid", "bottle"], plan=TINY)
    write_synthetic(tmp_path, "btad", plan=TINY)
    write_synthetic(tmp_path, "visa", categories=["pcb1"], plan=TINY)
    expected = {
        "grid/test/spot/000.png": ("PNG", "L"),
        "bottle/test/spot/000.png": ("PNG", "RGB"),
        "01/test/ko/0000.bmp": ("BMP", "RGB"),
        "01/ground_truth/ko/0000.png": ("PNG", "L"),
        "02/test/ko/0000.png": ("PNG", "RGB"),
        "03/ground_truth/ko/0000.bmp": ("BMP", "L"),
        "pcb1/Data/Images/Normal/0000.JPG": ("JPEG", "RGB"),
    }
    for name, form in expected.items():
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.mode) == form
    with Image.open(tmp_path / "pcb1/Data/Masks/Anomaly/000.png") as mask:
        assert set(np.unique(np.asarray(mask))) == {0, 1}


def test_the_split_file_has_the_published_form(tmp_path):
    write_synthetic(tmp_path, "visa", categories=["pcb1", "fryum"], plan=TINY)
    with (tmp_path / "split_csv/1cls.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["object"] for row in rows} == {"pcb1", "fryum"}
    assert {(row["split"], row["label"]) for row in rows} == {
        ("train", "normal"),
        ("test", "normal"),
        ("test", "anomaly"),
    }
    for row in rows:
        assert (tmp_path / row["image"]).is_file()
        assert (row["label"] == "anomaly") == bool(row["mask"])


def test_defects_lie_where_the_mask_says(tmp_path, monkeypatch):
    write_synthetic(tmp_path, "mvtec", categories=["tile"], plan=Plan(scale=0.01, side=64))
    monkeypatch.setitem(PUBLISHED, "mvtec", as_published("mvtec", Plan(scale=0.01, side=64)))
    split = load_split(dataset_settings("mvtec", root=str(tmp_path)), "tile", seed=42)
    for sample in split.test:
        if sample.mask_path is not None:
            mask, grey = read_mask(sample.mask_path), read_image(sample.path).max(axis=2)
            assert 0.005 < mask.mean() < 0.12
            assert grey[mask].min() > grey[~mask].max() * 0.9


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_counts_follow_the_scale(scale):
    scaled = as_published("mvtec", Plan(scale=scale))
    for category, published in PUBLISHED["mvtec"].items():
        assert scaled[category].train == round(scale * published.train)
        assert scaled[category].test_anomalous == round(scale * published.test_anomalous)


def test_unknown_names(tmp_path):
    with pytest.raises(DataError, match="dataset must be one of mvtec, btad, visa, got 'coco'"):
        write_synthetic(tmp_path, "coco")
    with pytest.raises(DataError, match=r"categories must be of 01, 02, 03, got '04'"):
        write_synthetic(tmp_path, "btad", categories=["04"])


@pytest.mark.parametrize("name", ["mvtec", "btad", "visa"])
def test_synthetic_data_are_never_official(name, tmp_path, monkeypatch):
    """Not even with the published numbers, sizes and split: every file says what it is."""
    write_synthetic(tmp_path, name, plan=TINY)
    published = {
        category: known._replace(synthetic=False)
        for category, known in as_published(name, TINY).items()
    }
    monkeypatch.setitem(PUBLISHED, name, published)
    dataset = dataset_settings(name, root=str(tmp_path))
    for category in dataset.categories:
        with pytest.raises(DataError, match=f"differs from .*: {category}: is synthetic: 3[0-9] "):
            load_split(dataset, category, seed=42)
        with pytest.raises(DataError, match=f"differs from .*: {category}: is synthetic: 3[0-9] "):
            load_split(dataset, category, seed=42)  # from the cached digests
        assert not load_split(replace(dataset, official=False), category, seed=42).official


def test_one_synthetic_file_is_enough(tmp_path, monkeypatch):
    write_synthetic(tmp_path, "mvtec", categories=["tile"], plan=TINY)
    dataset = dataset_settings("mvtec", root=str(tmp_path))
    for path in sorted(tmp_path.rglob("*.png"))[1:]:
        with Image.open(path) as image:
            pixels = np.asarray(image)
        Image.fromarray(pixels).save(path)
    published = as_published("mvtec", TINY)["tile"]._replace(synthetic=False)
    monkeypatch.setitem(PUBLISHED["mvtec"], "tile", published)
    with pytest.raises(DataError, match="tile: is synthetic: 1 of its files"):
        load_split(dataset, "tile", seed=42)


@pytest.mark.parametrize("name", ["mvtec", "visa"])
def test_nothing_that_is_there_is_written_over(name, tmp_path):
    write_synthetic(tmp_path, name, plan=TINY)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(DataError, match="is already there; remove it to make it again"):
        write_synthetic(tmp_path, name, plan=Plan(scale=0.01, side=16, seed=1))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before
