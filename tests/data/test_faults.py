"""No planted fault is accepted in silence."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.data import DataError, load_split
from tests.data.faults import FAULTS, TRAIN
from tests.data.small import CATEGORY, unofficial
from tests.data.visa_faults import VISA_FAULTS


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


def test_an_unreadable_file_is_named(copy, monkeypatch):
    dataset = copy("mvtec")
    opened = Path.open

    def refuse(path, *mode, **settings):  # root may read anything, so that chmod would not do
        if path.name == "003.png" and "train" in path.parts:
            raise PermissionError(13, "Permission denied")
        return opened(path, *mode, **settings)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"good/003.png: cannot be read \(Permission denied\)"):
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
    assert f"and 21 more, listed by `{command}`" in str(caught.value)


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
