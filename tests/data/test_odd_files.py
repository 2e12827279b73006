"""Masks, files and bits that are not what they seem: said, and never skipped in silence."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import DataError, load_split, read_image
from harness.data.images import Decoding
from harness.data.inspection import inspect_mask
from harness.data.load import dataset_settings
from harness.experiment import identity, settings
from harness.features.inputs import read_input
from harness.predict.command import image_files
from tests.conftest import tiny_job
from tests.data.bitmaps import own
from tests.data.cases import jpeg_masks, other_files, twelve_bits
from tests.test_identity import spec  # noqa: F401 - a fixture

SIDE = 32
Y, X = np.mgrid[:SIDE, :SIDE]
DISC = (Y - 15) ** 2 + (X - 12) ** 2 <= 36


@pytest.fixture
def dataset(tmp_path):
    """Own images of 32 x 32, and masks of discs."""
    root = own(tmp_path)
    for number in range(4):
        with Image.open(root / f"abnormal/spot/{number:03}.bmp") as image:
            image.resize((SIDE, SIDE)).save(root / f"abnormal/spot/{number:03}.bmp")
        save(root, number, DISC * 255)
    return dataset_settings("folder", root=str(root))


def save(root, number, values):
    Image.fromarray(values.astype(np.uint8)).save(Path(root) / f"masks/spot/{number:03}.bmp")


def notes(dataset, **changes):
    return "\n".join(load_split(replace(dataset, **changes), "all", seed=42).notes)


@pytest.mark.parametrize(
    "values",
    [
        DISC * 255,
        DISC * 1,
        DISC * (1 + X % 5),  # labels of kinds of defects, as in VisA
        DISC * np.where(X % 2, 100, 200),
        np.where(DISC, 255, 0) * (Y > 10),
        (X < SIDE // 2) * 255,  # half of the image
    ],
)
def test_of_masks_nothing_is_said(dataset, values):
    for number in range(4):
        save(dataset.root, number, values)
    assert notes(dataset) == ""


def test_masks_that_are_white_all_over_are_named(dataset):
    save(dataset.root, 2, np.full((SIDE, SIDE), 255))
    assert re.search(r"1 of 4 \(masks/spot/002.bmp\) are white all over, so that", notes(dataset))


def test_masks_of_the_other_polarity_are_named(dataset):
    for number in (0, 3):
        save(dataset.root, number, ~DISC * 255)
    found = notes(dataset, exclude=["masks/spot/003.bmp"])
    assert "1 of 3 (masks/spot/000.bmp) mark most of the image up to its border, others" in found


def test_a_category_of_inverted_masks_is_told(dataset):
    for number in range(4):
        save(dataset.root, number, ~DISC * 255)
    share = 1 - DISC.mean()
    found = notes(dataset)
    assert f"they mark {share:.0%} of all pixels as defect; if white is their background" in found
    assert found.count("\n") == 0


def test_a_large_defect_inside_an_image_is_none_of_the_other_polarity(dataset):
    inside = (X > 1) & (X < SIDE - 2) & (Y > 1) & (Y < SIDE - 2)
    save(dataset.root, 1, inside * 255)
    assert notes(dataset) == ""


def test_jpeg_masks_are_told_with_how_much_larger_the_defects_become(tmp_path):
    jpeg_masks(tmp_path)
    found = notes(dataset_settings("folder", root=str(tmp_path)))
    areas = []
    for path in (tmp_path / "masks/spot").iterdir():
        values = np.asarray(Image.open(path))
        areas.append((np.sum(values > 0), np.sum(values >= values.max() / 2)))
    defect, solid = np.sum(areas, axis=0)
    assert defect / solid > 1.15
    assert "4 of 4 (masks/spot/000.jpg, masks/spot/001.jpg, masks/spot/002.jpg, ...)" in found
    assert f"so that their defects are {defect / solid - 1:.0%} larger" in found


@pytest.mark.parametrize("deep", [False, True])
def test_areas_of_a_mask_are_counted(tmp_path, deep):
    values = np.zeros((9, 7), np.uint16)
    values[:2], values[2, :3] = 200, 10
    values = values * 256 if deep else values.astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    seen = inspect_mask((tmp_path / "mask.png").read_bytes())
    assert (seen.defect_pixels, seen.solid_pixels, seen.inverted) == (17, 14, False)


def test_official_data_get_the_note_too_and_stay_official(copy):
    dataset = copy("mvtec")
    masks = sorted((Path(dataset.root) / "bottle/ground_truth").rglob("*.png"))
    Image.new("L", (32, 32), 255).save(masks[0])
    split = load_split(dataset, "bottle", seed=42)
    assert split.official
    name = masks[0].relative_to(dataset.root)
    assert (
        f"mvtec/bottle: look at the ground truth masks: 1 of 5 ({name}) are white" in split.notes[0]
    )


def test_what_is_no_image_is_counted_and_what_servers_write_is_none(tmp_path):
    other_files(tmp_path)
    split = load_split(dataset_settings("folder", root=str(tmp_path)), "all", seed=42)
    names = {sample.name for sample in (*split.train, *split.test)}
    assert len(names) == 20 + 1 + 4
    assert "normal/000.jfif" in names
    assert split.notes == (
        "folder/all: files that are not used, being no images of the dataset: 2 .heic, 1 .gif",
    )
    listed = image_files([tmp_path], without=tmp_path / "o")
    predicted = {str(one.path.relative_to(tmp_path)) for one in listed}
    assert {name for name in predicted if not name.startswith("masks")} == names


def test_twelve_bits_in_sixteen_are_told_with_the_remedy(tmp_path):
    twelve_bits(tmp_path)
    dataset = dataset_settings("folder", root=str(tmp_path))
    split = load_split(dataset, "all", seed=42)
    top = max(np.asarray(Image.open(sample.path)).max() for sample in split.train)
    assert split.notes == (
        f"folder/all: none of the 12 training images of 16 bits has a value above {top}, so that"
        f" their upper 8 of 16 bits hold {top // 256 + 1} grey levels; dataset.bits=12 reads them"
        " as images of 12 bits",
    )
    assert notes(dataset, bits=12) == ""


def test_images_that_use_their_sixteen_bits_need_no_note(tmp_path):
    twelve_bits(tmp_path)
    for path in sorted(tmp_path.glob("normal/*.png")):
        values = np.asarray(Image.open(path))
        Image.fromarray(values * 16).save(path)
    assert notes(dataset_settings("folder", root=str(tmp_path))) == ""


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_of_the_bits_the_upper_eight_are_kept(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (6, 5)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    decoding = Decoding(bits=bits)
    image = read_image(tmp_path / "x.png", decoding=decoding)
    np.testing.assert_array_equal(image[..., 1], values // 2 ** (bits - 8))
    Image.fromarray(image).save(tmp_path / "eight.png")
    np.testing.assert_array_equal(
        read_input(tmp_path / "x.png", image_size=4, decoding=decoding),
        read_input(tmp_path / "eight.png", image_size=4),
    )


def test_a_value_of_more_bits_is_refused(tmp_path):
    twelve_bits(tmp_path)
    dataset = replace(dataset_settings("folder", root=str(tmp_path)), bits=12)
    Image.fromarray(np.full((8, 8), 4096, np.uint16)).save(tmp_path / "normal/003.png")
    rule = r"has the value 4096, more than dataset.bits=12 hold"
    with pytest.raises(DataError, match=f"normal/003.png: {rule}"):
        load_split(dataset, "all", seed=42)
    with pytest.raises(DataError, match=rule):
        read_image(tmp_path / "normal/003.png", decoding=Decoding(bits=12))


@pytest.mark.parametrize(("key", "value"), [("bits", 7), ("bits", 17), ("max_pixels", 0)])
def test_settings_out_of_range_are_refused(dataset, key, value):
    with pytest.raises(DataError, match=rf"^dataset.{key} must be .*, got {value}$"):
        load_split(replace(dataset, **{key: value}), "all", seed=42)


def test_bits_are_part_of_the_identity_and_nothing_else_is_new(dataset, tmp_path, spec):  # noqa: F811
    job = replace(tiny_job(tmp_path, tmp_path), dataset=dataset)
    same = [
        replace(dataset, exclude=["x"]),
        replace(dataset, max_pixels=10**9),
        replace(dataset, normal_dir="normal/", abnormal_dir="abnormal//", mask_dir="masks/"),
    ]
    found = [identity(replace(job, dataset=one), spec, fingerprint="") for one in (dataset, *same)]
    assert len({*found}) == 1
    twelve = replace(job, dataset=replace(dataset, bits=12))
    assert identity(twelve, spec, fingerprint="") not in found
    assert settings(twelve, spec)["dataset.bits"] == "12"


def test_larger_images_are_allowed_by_a_setting(dataset, monkeypatch):
    """What has been inspected under another limit is looked at again."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # of Pillow, which refuses twice as many
    Image.new("L", (60, 50)).save(Path(dataset.root) / "normal/003.bmp")
    for limit, allowed in ((2999, False), (3000, True), (2999, False)):
        limited = replace(dataset, max_pixels=limit)
        if allowed:
            assert load_split(limited, "all", seed=42)
        else:
            rule = r"003.bmp: .* 60x50 pixels, more than 2,999 \(dataset.max_pixels\)"
            with pytest.raises(DataError, match=rule):
                load_split(limited, "all", seed=42)
