"""No planted fault is accepted in silence."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from harness.data import DataError, images, load_split
from harness.data.load import dataset_settings
from tests.data.faults import FAULTS, TRAIN
from tests.data.planting import huge
from tests.data.small import CATEGORY, unofficial
from tests.data.visa_faults import ANOMALY, VISA_FAULTS


@pytest.mark.parametrize("layout", CATEGORY)
def test_without_a_fault_the_data_are_official(copy, layout):
    split = load_split(copy(layout), CATEGORY[layout], seed=42)
    assert split.official
    assert split.train
    assert split.test


@pytest.mark.parametrize("fault", FAULTS + VISA_FAULTS, ids=lambda fault: fault.name)
def test_each_fault_has_its_own_line(copy, fault):
    dataset = copy(fault.layout)
    fault.plant(Path(dataset.root))
    with pytest.raises(DataError) as caught:
        load_split(dataset, CATEGORY[fault.layout], seed=42)
    message = str(caught.value)
    assert re.search(fault.message, message)
    assert "\n" not in message


@pytest.mark.parametrize("fault", FAULTS + VISA_FAULTS, ids=lambda fault: fault.name)
def test_only_differences_can_be_run_as_unofficial(copy, fault):
    dataset = unofficial(copy(fault.layout))
    fault.plant(Path(dataset.root))
    if fault.fatal:
        with pytest.raises(DataError, match=fault.message):
            load_split(dataset, CATEGORY[fault.layout], seed=42)
    else:
        assert not load_split(dataset, CATEGORY[fault.layout], seed=42).official


def test_a_file_larger_than_the_memory_is_named(copy):
    dataset = copy("mvtec")
    huge(Path(dataset.root) / "bottle/train/good/003.png")
    with pytest.raises(
        DataError,
        match=r"train/good/003.png: cannot be decoded \(it needs more memory",
    ):
        load_split(dataset, "bottle", seed=42)


def test_an_unreadable_file_is_named(copy, monkeypatch):
    dataset = copy("mvtec")
    opened = images.open_regular

    def refuse(path):  # root may read anything, so that chmod would not do
        if path.name == "003.png" and "train" in path.parts:
            raise PermissionError(13, "Permission denied")
        return opened(path)

    monkeypatch.setattr(images, "open_regular", refuse)
    with pytest.raises(DataError, match=r"good/003.png: cannot be decoded \(Permission denied\)"):
        load_split(dataset, "bottle", seed=42)


def test_a_fault_after_a_good_run_is_seen(copy):
    dataset = copy("mvtec")
    load_split(dataset, "bottle", seed=42)
    path = Path(dataset.root) / TRAIN
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=TRAIN):
        load_split(dataset, "bottle", seed=42)
    with pytest.raises(DataError, match=TRAIN):  # and not forgiven the second time
        load_split(dataset, "bottle", seed=42)


def test_a_long_list_is_cut_and_names_the_command(copy):
    dataset = copy("mvtec")
    for path in (Path(dataset.root) / "bottle/train/good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load_split(dataset, "bottle", seed=42)
    command = "python -m harness.data verify dataset=mvtec category=bottle"
    command += f" dataset.root={dataset.root} write_exclude=exclude.txt"
    advice = "dataset.exclude=@exclude.txt runs without them"
    assert str(caught.value).endswith(f"; and 21 more, listed by `{command}`; {advice}")


def test_a_symlinked_root_is_like_the_root(copy, tmp_path):
    dataset = copy("mvtec")
    link = tmp_path / "a link ü"
    link.symlink_to(dataset.root, target_is_directory=True)
    straight = load_split(dataset, "bottle", seed=42)
    dataset = replace(dataset, root=str(link))
    assert load_split(dataset, "bottle", seed=42).fingerprint == straight.fingerprint


def test_system_files_are_no_strays(copy):
    dataset = copy("mvtec")
    for name in (".DS_Store", "._000.png", "Thumbs.db", "desktop.ini"):
        (Path(dataset.root) / "bottle/train/good" / name).write_text("x")
    assert load_split(dataset, "bottle", seed=42).official


def test_an_unpublished_category_is_never_official(copy, monkeypatch):
    dataset = copy("mvtec")
    dataset = replace(dataset, name="mine")
    with pytest.raises(DataError, match="bottle: is not a category of a published dataset"):
        load_split(dataset, "bottle", seed=42)
    assert not load_split(unofficial(dataset), "bottle", seed=42).official


NORMAL_AND_ANOMALOUS = {
    "mvtec": ("bottle/test/good/000.png", "bottle/test/spot/000.png"),
    "btad": ("03/test/ok/0000.bmp", "03/test/ko/0000.bmp"),
}


@pytest.mark.parametrize("layout", NORMAL_AND_ANOMALOUS)
def test_one_image_that_is_normal_and_anomalous_is_refused(copy, layout):
    dataset = unofficial(copy(layout))
    normal, anomalous = NORMAL_AND_ANOMALOUS[layout]
    shutil.copyfile(Path(dataset.root) / normal, Path(dataset.root) / anomalous)
    with pytest.raises(DataError) as caught:
        load_split(dataset, CATEGORY[layout], seed=42)
    rule = f"{anomalous}: is an anomalous image identical to the normal image {normal}"
    assert f" is broken: {rule}; `python -m harness.data verify " in str(caught.value)


def test_one_image_that_is_normal_and_anomalous_is_refused_in_visa(copy):
    dataset = unofficial(copy("visa"))
    normal = next(s for s in load_split(dataset, "cashew", seed=42).test if not s.anomalous)
    shutil.copyfile(normal.path, Path(dataset.root) / ANOMALY)
    with pytest.raises(DataError, match=f"{ANOMALY}: is an anomalous image identical to"):
        load_split(dataset, "cashew", seed=42)


@pytest.mark.parametrize("seed", range(4))
def test_one_image_that_is_normal_and_anomalous_is_refused_in_own_folders(copy, tmp_path, seed):
    """Whether the seed lets the normal one train or tests it."""
    bottle = Path(copy("mvtec").root) / "bottle"
    shutil.copytree(bottle / "train/good", tmp_path / "own/normal")
    shutil.copytree(bottle / "test/spot", tmp_path / "own/abnormal")
    settings = replace(dataset_settings("folder"), root=str(tmp_path / "own"), categories=["own"])
    load_split(settings, "own", seed=seed)
    shutil.copyfile(tmp_path / "own/normal/000.png", tmp_path / "own/abnormal/000.png")
    with pytest.raises(DataError, match=r"abnormal/000.png: is .* image identical to the .* image"):
        load_split(settings, "own", seed=seed)


def test_one_cell_that_is_normal_and_defective_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.new("L", (30, 30), number % 6).save(tmp_path / f"images/{number}.png")
    rows = [f"images/{number}.png {float(number > 5)} mono\n" for number in range(8)]
    (tmp_path / "labels.csv").write_text("".join(rows))
    settings = unofficial(dataset_settings("elpv", root=str(tmp_path)))
    with pytest.raises(DataError, match=r"images/[67].png: is .* image identical to the .* image"):
        load_split(settings, "mono", seed=42)


def test_the_labels_of_cells_may_be_no_pipe(tmp_path):
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"labels.csv: cannot be read \(.*is not a regular file"):
        load_split(dataset_settings("elpv", root=str(tmp_path)), "mono", seed=42)


def test_names_in_messages_stay_on_one_line_and_move_no_cursor(tmp_path):
    (tmp_path / "x\x1b[2J\n").mkdir()
    with pytest.raises(DataError) as caught:
        load_split(dataset_settings("mvtec", root=str(tmp_path)), "bottle", seed=42)
    assert str(caught.value).isprintable()
