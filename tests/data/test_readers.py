"""The layouts on disk, and where a dataset is looked for."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.data import DataError, load_split, read_image, read_mask
from harness.data.load import dataset_settings, survey
from harness.data.official import PUBLISHED, split_digest
from harness.data.readers import split_rows
from tests.data.cases import good_bad, loco, nested
from tests.data.small import CATEGORY

REAL = os.environ.get("DFKDE_TEST_DATA")


@pytest.mark.parametrize("layout", CATEGORY)
def test_each_layout_pairs_images_and_masks_by_name(copy, layout):
    split = load_split(copy(layout), CATEGORY[layout], seed=42)
    assert not any(sample.anomalous or sample.mask_path for sample in split.train)
    for sample in split.test:
        assert (sample.mask_path is not None) == sample.anomalous
        if sample.mask_path is not None:
            number = sample.path.stem
            assert sample.mask_path.stem.removesuffix("_mask") == number
            assert read_mask(sample.mask_path).shape == read_image(sample.path).shape[:2]
    assert [s.name for s in split.test] == sorted(s.name for s in split.test)


def test_names_are_relative_to_the_root(copy):
    dataset = copy("btad")
    for sample in load_split(dataset, "03", seed=42).test:
        assert Path(dataset.root) / sample.name == sample.path


def test_defect_types_are_the_datasets_own(copy):
    kinds = {
        layout: {sample.defect_type for sample in load_split(copy(layout), category, seed=1).test}
        for layout, category in CATEGORY.items()
    }
    assert kinds == {
        "mvtec": {"good", "spot", "scratch"},
        "btad": {"good", "ko"},
        "visa": {"good", "anomaly"},
    }


def _anomalous_types(dataset):
    test = load_split(dataset, "cashew", seed=42).test
    return [sample.defect_type for sample in test if sample.anomalous]


def test_visas_annotations_name_the_defect_types(copy):
    dataset = copy("visa")
    before = load_split(dataset, "cashew", seed=42, train_contamination=0.1)
    labels = ["bent", '"bent,scratch"', '"scratch, bent"', "normal", "good"]
    rows = [f"cashew/Data/Images/Anomaly/{n:03}.JPG,{label}," for n, label in enumerate(labels)]
    normal = [f"{s.name},normal," for s in before.train if not s.anomalous]
    lines = ["image,label,mask", *normal, *rows, "cashew/Data/Images/Anomaly/999.JPG,melt,"]
    path = Path(dataset.root) / "cashew/image_anno.csv"
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    types = _anomalous_types(dataset)
    assert types[:5] == ["bent", "bent+scratch", "bent+scratch", "anomaly", "good"]
    assert set(types[5:]) == {"anomaly"}
    after = load_split(dataset, "cashew", seed=42, train_contamination=0.1)
    assert after.official
    assert after.fingerprint == before.fingerprint
    assert [replace(s, defect_type="") for s in (*after.train, *after.test)] == [
        replace(s, defect_type="") for s in (*before.train, *before.test)
    ]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"\xff\xfe", "the file of annotations cannot be read"),
        (b"000.JPG,bent,\n", "its header must be image,label,mask, got 000.JPG"),
        (b"image,label,mask\n000.JPG,bent,scratch,\n", "line 2: must have 3 fields, got 4"),
        (b"image,label,mask\n000.JPG,,\n", "line 2: label must be normal or defect types"),
        (b'image,label,mask\n000.JPG,"normal,bent",\n', "line 2: label must be normal or"),
        (b"image,label,mask\n000.JPG,a,\n000.JPG,b,\n", "line 3: 000.JPG occurs twice"),
    ],
)
def test_annotations_that_cannot_be_read_cost_the_defect_types_alone(copy, content, rule):
    dataset = copy("visa")
    (Path(dataset.root) / "cashew/image_anno.csv").write_bytes(content)
    with pytest.warns(UserWarning, match=f"image_anno.csv.*{rule}.*keep the defect type"):
        assert set(_anomalous_types(dataset)) == {"anomaly"}


def test_defect_types_are_not_in_the_digest_of_a_split(copy):
    dataset = copy("visa")
    before = split_digest(survey(dataset, "cashew", seed=42).listing)
    path = Path(dataset.root) / "cashew/image_anno.csv"
    path.write_text("image,label,mask\ncashew/Data/Images/Anomaly/000.JPG,melt,\n")
    assert "melt" in _anomalous_types(dataset)
    assert split_digest(survey(dataset, "cashew", seed=42).listing) == before


@pytest.mark.skipif(REAL is None, reason="DFKDE_TEST_DATA is not set")
def test_the_real_split_file_has_the_official_counts():
    rows, _ = split_rows(Path(REAL or "") / "visa")
    assert len(rows) == 10_821
    for category, published in PUBLISHED["visa"].items():
        kinds = [(row.split, row.label) for row in rows if row.object == category]
        assert kinds.count(("train", "normal")) == published.train
        assert kinds.count(("test", "normal")) == published.test_normal
        assert kinds.count(("test", "anomaly")) == published.test_anomalous
        assert kinds.count(("train", "anomaly")) == 0


@pytest.mark.skipif(REAL is None, reason="DFKDE_TEST_DATA is not set")
def test_the_real_split_has_the_published_digests():
    from harness.data.listing import ImageFile, Listing

    rows, _ = split_rows(Path(REAL or "") / "visa")
    kinds = {"normal": "good", "anomaly": "anomaly"}
    for category, published in PUBLISHED["visa"].items():
        images = {
            split: tuple(
                ImageFile(row.image, kinds[row.label], row.label == "anomaly", row.mask or None)
                for row in rows
                if (row.object, row.split) == (category, split)
            )
            for split in ("train", "test")
        }
        listing = Listing(images["train"], images["test"], (), {})
        assert split_digest(listing) == published.split_digest


def test_published_totals():
    totals = {
        name: tuple(np.sum([[p.train, p.test_normal, p.test_anomalous] for p in known.values()], 0))
        for name, known in PUBLISHED.items()
        if name != "elpv"
    }
    assert totals["mvtec"][0] == 3629
    assert sum(totals["mvtec"][1:]) == 1725
    assert totals["btad"] == (1799, 451, 290)
    assert sum(totals["visa"]) == 10_821


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configuration_lists_the_published_categories(name):
    assert dataset_settings(name).categories == list(PUBLISHED[name])


@pytest.fixture
def own(copy):
    """A dataset in the layout `folder`, made of the synthetic bottle."""
    dataset = copy("mvtec")
    bottle = Path(dataset.root) / "bottle"
    (bottle / "train/good").rename(bottle / "normal")
    shutil.rmtree(bottle / "train")
    for kind in ("spot", "scratch"):
        shutil.copytree(bottle / "test" / kind, bottle / "abnormal" / kind)
        shutil.copytree(bottle / "ground_truth" / kind, bottle / "masks" / kind)
    shutil.rmtree(bottle / "test")
    shutil.rmtree(bottle / "ground_truth")
    return replace(dataset_settings("folder"), root=str(bottle.parent), categories=["bottle"])


def test_an_own_folder_is_split_by_seed(own):
    split = load_split(own, "bottle", seed=42)
    assert not split.official
    assert len(split.train) == 14  # 60 % of 24
    assert len(split.test) == 10 + 5
    assert {sample.defect_type for sample in split.test} == {"good", "spot", "scratch"}
    assert all(sample.mask_path for sample in split.test if sample.anomalous)
    other = load_split(own, "bottle", seed=43)
    assert other.train != split.train
    assert other.fingerprint == split.fingerprint


@pytest.mark.parametrize("masks", [True, False])
def test_an_own_folder_may_be_the_root_itself(own, masks):
    root = Path(own.root) / "bottle"
    if not masks:
        shutil.rmtree(root / "masks")
    dataset = replace(own, root=str(root), categories=["all"], train_share=0.5)
    split = load_split(dataset, "all", seed=42)
    assert len(split.train) == 12
    assert split.train[0].name.startswith("normal/")
    assert {sample.mask_path is not None for sample in split.test if sample.anomalous} == {masks}


def test_own_folders_may_have_other_names_and_no_defect_folders(own):
    root = Path(own.root) / "bottle"
    (root / "normal").rename(root / "ok")
    shutil.rmtree(root / "abnormal/scratch")
    shutil.rmtree(root / "masks/scratch")
    (root / "abnormal/spot").rename(root / "nok")
    (root / "masks/spot").rename(root / "gt")
    for folder in ("abnormal", "masks"):
        (root / folder).rmdir()
    dataset = replace(own, normal_dir="ok", abnormal_dir="nok", mask_dir="gt")
    split = load_split(dataset, "bottle", seed=42)
    assert {sample.defect_type for sample in split.test} == {"good", "abnormal"}
    assert sum(sample.mask_path is not None for sample in split.test) == 3


@pytest.mark.parametrize("other", [False, True])
def test_an_image_that_is_called_a_mask_has_the_mask_of_its_own_name(own, other):
    root = Path(own.root) / "bottle"
    (root / "abnormal/spot/000.png").rename(root / "abnormal/spot/x_mask.png")
    (root / "masks/spot/000_mask.png").rename(root / "masks/spot/x_mask.png")
    if other:  # the older rule for an image beside it
        (root / "abnormal/spot/001.png").rename(root / "abnormal/spot/y.png")
        (root / "masks/spot/001_mask.png").rename(root / "masks/spot/y_mask.png")
    masks = {s.name: s.mask_path for s in load_split(own, "bottle", seed=42).test}
    assert masks["bottle/abnormal/spot/x_mask.png"] == root / "masks/spot/x_mask.png"
    if other:
        assert masks["bottle/abnormal/spot/y.png"] == root / "masks/spot/y_mask.png"


def test_an_own_folder_without_normal_images(own):
    shutil.rmtree(Path(own.root) / "bottle/normal")
    with pytest.raises(DataError, match=r"holds a folder 'normal' of normal images"):
        load_split(own, "bottle", seed=42)


@pytest.mark.parametrize("share", [None, 0.0, 1.0, 0.01])
def test_a_share_that_leaves_nothing(own, share):
    with pytest.raises(DataError, match=r"dataset.train_share"):
        load_split(replace(own, train_share=share), "bottle", seed=42)


@pytest.mark.parametrize(("share", "n_train"), [(0.6, 14), (1.0, 24)])
def test_an_own_folder_of_normal_images_alone(own, share, n_train):
    for name in ("abnormal", "masks"):
        shutil.rmtree(Path(own.root) / "bottle" / name)
    split = load_split(replace(own, train_share=share), "bottle", seed=42)
    assert (len(split.train), len(split.test)) == (n_train, 24 - n_train)
    assert not any(sample.anomalous for sample in split.train + split.test)


def test_a_missing_dataset_says_where_it_could_be(monkeypatch, tmp_path):
    monkeypatch.delenv("DFKDE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_split(dataset_settings("btad"), "01", seed=42)
    for part in (
        "dataset.root=PATH",
        "$DFKDE_DATA/btad",
        "data/btad",
        "`python -m harness.data fetch dataset=btad`",
    ):
        assert part in str(caught.value)


def test_only_what_can_be_fetched_is_said_to_be(tmp_path):
    dataset = replace(dataset_settings("btad"), name="mine", root=str(tmp_path / "nowhere"))
    with pytest.raises(DataError) as caught:
        load_split(dataset, "01", seed=42)
    assert str(caught.value).endswith(
        "; `python -m harness.data fetch` fetches only mvtec, btad, visa"
    )


@pytest.mark.parametrize("setting", ["dataset.root", "DFKDE_DATA"])
def test_a_home_directory_that_is_not_known_is_named(setting, monkeypatch):
    root = "~no-such-user/x" if setting == "dataset.root" else None
    monkeypatch.setenv("DFKDE_DATA", "~no-such-user/x")
    rule = f"^{setting}='~no-such-user/x' is in a home directory that is not known$"
    with pytest.raises(DataError, match=rule):
        load_split(replace(dataset_settings("btad"), root=root), "01", seed=42)


def test_the_root_is_found_in_order(copy, monkeypatch, tmp_path):
    dataset = copy("mvtec")
    expected = load_split(dataset, "bottle", seed=42).fingerprint
    anywhere = replace(dataset, root=None)
    monkeypatch.setenv("DFKDE_DATA", str(Path(dataset.root).parent))
    assert load_split(anywhere, "bottle", seed=42).fingerprint == expected
    monkeypatch.delenv("DFKDE_DATA")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mvtec").symlink_to(dataset.root)
    assert load_split(anywhere, "bottle", seed=42).fingerprint == expected
    with pytest.raises(DataError, match="not at 'nowhere'"):
        load_split(replace(dataset, root="nowhere"), "bottle", seed=42)


def test_an_unknown_category_suggests_the_nearest(copy):
    with pytest.raises(DataError, match=r"one of bottle, .* got 'botle'; did you mean 'bottle'"):
        load_split(copy("mvtec"), "botle", seed=42)


def test_an_unknown_reader_lists_the_choices(copy):
    with pytest.raises(DataError, match=r"dataset.reader must be one of mvtec, .* got 'coco'"):
        load_split(replace(copy("mvtec"), reader="coco"), "bottle", seed=42)


@pytest.mark.parametrize(("key", "value"), [("mask_ending", "_GT"), ("train_share", 0.5)])
def test_a_setting_that_the_reader_would_ignore_is_refused(copy, key, value):
    rule = f"dataset.{key} must be left out unless dataset.reader is folder or .* for mvtec"
    with pytest.raises(DataError, match=rule):
        load_split(replace(copy("mvtec"), **{key: value}), "bottle", seed=42)


def test_broken_elpv_labels_name_the_line(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.csv").write_text("images/a.png 0.0 mono\nimages/b.png none mono\n")
    with pytest.raises(DataError, match=r"labels.csv, line 2: could not convert"):
        load_split(dataset_settings("elpv", root=str(tmp_path)), "mono", seed=42)
    (tmp_path / "labels.csv").write_text("images/a.png 0.0 mono\nimages/a.png 0.0 mono\n")
    with pytest.raises(DataError, match=r"line 2: images/a.png occurs twice"):
        load_split(dataset_settings("elpv", root=str(tmp_path)), "mono", seed=42)


def test_settings_come_from_any_file_of_the_form(tmp_path):
    path = tmp_path / "mine.yaml"
    text = "name: mine\ntitle: My parts\nreader: folder\ncategories: [gear]\n"
    path.write_text(text)
    assert dataset_settings(str(path), root="here").root == "here"
    path.write_text(text + "rooot: x\n")
    with pytest.raises(DataError, match=r"mine.yaml: 'rooot' is not one of name, title, reader"):
        dataset_settings(str(path))
    path.write_text("name: mine\n")
    with pytest.raises(DataError, match=r"mine.yaml: 'title' is missing"):
        dataset_settings(str(path))


def test_folders_may_be_named_with_a_slash_at_the_end(tmp_path):
    nested(tmp_path)
    places = {
        "normal_dir": "train/good",
        "abnormal_dir": "test/bad",
        "mask_dir": "ground_truth/bad",
    }
    base = dataset_settings("folder", root=str(tmp_path))
    plain = load_split(replace(base, **places), "all", seed=42)
    slashes = {key: f"{value}/" for key, value in places.items()}
    other = load_split(replace(base, **slashes), "all", seed=42)
    assert (other.train, other.test, other.fingerprint) == (
        *(plain.train, plain.test),
        plain.fingerprint,
    )
    assert {sample.defect_type for sample in plain.test} == {"good", "abnormal"}


def test_blank_lines_at_the_end_of_the_split_file_are_none(copy):
    dataset = copy("visa")
    before = load_split(dataset, "cashew", seed=42)
    with (Path(dataset.root) / "split_csv/1cls.csv").open("a") as file:
        file.write("\n\r\n")
    after = load_split(dataset, "cashew", seed=42)
    assert (after.train, after.test) == (before.train, before.test)
    assert after.official


def test_loco_is_read_at_image_level(tmp_path):
    loco(tmp_path)
    # What is not used may be broken.
    unused = next((tmp_path / "pushpins" / "validation" / "good").iterdir())
    unused.unlink()
    unused.symlink_to("nowhere.png")
    split = load_split(dataset_settings("loco", root=str(tmp_path)), "pushpins", seed=42)
    kinds = [sample.defect_type for sample in split.test]
    assert sorted(set(kinds)) == ["good", "logical_anomalies", "structural_anomalies"]
    assert [sample.anomalous for sample in split.test] == [kind != "good" for kind in kinds]
    assert not any(sample.mask_name or "validation" in sample.name for sample in split.test)
    assert split.notes == (
        "loco/pushpins: ground truth masks that are not used: 6",
        "loco/pushpins: validation images that are not used: 3",
    )


def test_a_tree_may_hold_several_categories_and_masks_with_an_ending(tmp_path):
    for category in ("gear", "bolt"):
        good_bad(tmp_path / category)
        for path in sorted((tmp_path / category).glob("ground_truth/bad/*")):
            path.rename(path.with_stem(f"{path.stem}_mask"))
    dataset = dataset_settings("tree", root=str(tmp_path))
    split = load_split(replace(dataset, categories=["gear", "bolt"]), "gear", seed=42)
    assert {s.mask_name for s in split.test if s.anomalous} == {
        f"gear/ground_truth/bad/{number:03}_mask.bmp" for number in range(4)
    }
