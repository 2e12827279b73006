"""Files left out on purpose, and the command that lists what is broken."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.data import DataError, load_split
from harness.data.__main__ import main
from harness.data.load import dataset_settings, verify
from tests.data.bitmaps import mvtec, own
from tests.data.cases import broken
from tests.data.faults import FAULTS
from tests.data.small import CATEGORY, unofficial
from tests.data.visa_faults import VISA_FAULTS

MASK = "masks/spot/001.bmp"


@pytest.fixture
def dataset(tmp_path):
    return dataset_settings("folder", root=str(own(tmp_path / "own")))


def names(split):
    return {sample.name for sample in (*split.train, *split.test)}


@pytest.mark.parametrize(
    ("patterns", "gone", "images"),
    [
        ([MASK], {"abnormal/spot/001.bmp"}, 1),
        (["abnormal/spot/001.bmp"], {"abnormal/spot/001.bmp"}, 1),
        (["normal/00[12].bmp"], {"normal/001.bmp", "normal/002.bmp"}, 2),
        (["*1.bmp"], {"normal/001.bmp", "normal/011.bmp", "abnormal/spot/001.bmp"}, 3),
        (["normal/00?.bmp", "normal/000.bmp"], {f"normal/{n:03}.bmp" for n in range(10)}, 10),
    ],
)
def test_what_remains_is_what_would_be_left_if_the_others_were_deleted(
    dataset, tmp_path, patterns, gone, images
):
    everything = names(load_split(dataset, "all", seed=42))
    split = load_split(replace(dataset, exclude=patterns), "all", seed=42)
    assert names(split) == everything - gone
    assert split.n_left_out == images
    root = Path(shutil.copytree(dataset.root, tmp_path / "copy"))
    for name in gone:
        (root / name).unlink()
        (root / name.replace("abnormal", "masks")).unlink(missing_ok=True)
    for name in root.glob("normal/../masks/spot/*"):
        assert (root / "abnormal/spot" / name.name).exists()
    deleted = load_split(replace(dataset, root=str(root)), "all", seed=42)
    assert (deleted.fingerprint, names(deleted)) == (split.fingerprint, names(split))
    assert [s.name for s in deleted.train] == [s.name for s in split.train]


def test_a_list_in_a_file_is_the_same_as_in_the_command(dataset, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(f"# blurred\n\nnormal/001.bmp\r\n{MASK}\n", encoding="utf-8-sig")
    by_file = load_split(replace(dataset, exclude=f"@{path}"), "all", seed=42)
    by_hand = load_split(replace(dataset, exclude=["normal/001.bmp", MASK]), "all", seed=42)
    assert (by_file.train, by_file.test) == (by_hand.train, by_hand.test)


def test_a_folder_is_left_out_with_all_in_it(dataset):
    (Path(dataset.root) / "odd/deep").mkdir(parents=True)
    shutil.copy(Path(dataset.root) / "normal/000.bmp", Path(dataset.root) / "odd/deep/x.bmp")
    with pytest.raises(DataError, match=r"odd/deep/x.bmp: is an image outside"):
        load_split(dataset, "all", seed=42)
    split = load_split(replace(dataset, exclude=["odd/"]), "all", seed=42)
    assert split.n_left_out == 0
    assert split.notes == ("folder/all: images left out by dataset.exclude: 0, 1 files in all",)


def test_a_pattern_that_matches_nothing_is_named_unless_it_is_of_another_category(tmp_path):
    root = mvtec(tmp_path)
    dataset = unofficial(dataset_settings("mvtec", root=str(root)))
    dataset = replace(dataset, exclude=["bottel/*", "cable/train/good/000.png"])
    assert load_split(dataset, "bottle", seed=42).notes == (
        "mvtec/bottle: patterns of dataset.exclude that match nothing: 1 (bottel/*)",
    )


@pytest.mark.parametrize("given", ["normal/000.bmp", [1], [""], {"a": 1}, 3])
def test_another_type_is_refused(dataset, given):
    with pytest.raises(DataError, match=r"^dataset.exclude must be a list .* or @FILE, got"):
        load_split(replace(dataset, exclude=given), "all", seed=42)


def test_a_list_that_is_not_there_is_named(dataset):
    with pytest.raises(
        DataError, match=r"^'nowhere.txt' cannot be read as a list .* dataset.exclude"
    ):
        load_split(replace(dataset, exclude="@nowhere.txt"), "all", seed=42)


def test_data_with_files_left_out_are_not_official(copy):
    dataset = replace(copy("mvtec"), exclude=["bottle/train/good/003.png"])
    split = load_split(dataset, "bottle", seed=42)
    assert not split.official
    assert len(split.train) == 23
    assert load_split(replace(dataset, exclude=["cable/*"]), "bottle", seed=42).official


def test_the_refusal_prints_a_command_that_ends_with_data_that_run(tmp_path, monkeypatch, capsys):
    """With the very settings of the run, whatever their characters."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "my 'parts', new"
    broken(root)
    (root / "normal").rename(root / "good ones")
    dataset = replace(
        dataset_settings("folder", root=str(root)),
        normal_dir="good ones/",
        categories=["all", "a,b c"],
        exclude=["masks/spot/000.bmp", "a, [b]"],
        train_share=0.5,
        bits=12,
    )
    with pytest.raises(DataError) as caught:
        load_split(dataset, "all", seed=7)
    [command] = re.findall("`(.*?) write_exclude=", str(caught.value))
    assert all(
        f"dataset.{key}=" in command for key in ("root", "normal_dir", "train_share", "bits")
    )
    assert "seed=7" in command
    python, _, module, *arguments = shlex.split(command)
    assert (python, module) == ("python", "harness.data")
    assert main([*arguments, "write_exclude=exclude.txt"]) == 1
    assert "4 files written to exclude.txt; dataset.exclude=@exclude.txt" in capsys.readouterr().out
    split = load_split(replace(dataset, exclude="@exclude.txt"), "all", seed=7)
    assert {sample.name for sample in split.test if sample.anomalous} == {"abnormal/spot/003.bmp"}
    assert split.n_left_out == 4
    assert main([*arguments, "dataset.exclude=@exclude.txt"]) == 0


@pytest.mark.parametrize("option", [["--write-exclude", "x.txt"], ["--write-exclude=x.txt"]])
def test_the_list_may_be_asked_for_by_an_option(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    broken(tmp_path / "own")
    main(["verify", "dataset=folder", *option, "dataset.root=own"])
    written = re.sub(r" \(image file.*", "", (tmp_path / "x.txt").read_text())
    assert written.splitlines() == [
        "# Files to leave out, for dataset.exclude=@FILE: a pattern in each line.",
        "# is a mask without an anomalous image",
        "masks/spot/[[]#] 1.bmp",
        "# cannot be decoded",
        "normal/004.bmp",
        "# is a test image identical to the training image normal/007.bmp",
        "abnormal/spot/002.bmp",
        "# is an empty mask: no pixel is above 0",
        "masks/spot/001.bmp",
    ]


def test_no_other_file_is_overwritten_by_a_list(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    broken(tmp_path / "own")
    command = ["verify", "dataset=folder", "dataset.root=own", "write_exclude=x.txt"]
    (tmp_path / "x.txt").write_text("my notes")
    main(command)
    assert "'x.txt' is there already and no list of files" in capsys.readouterr().err
    assert (tmp_path / "x.txt").read_text() == "my notes"
    (tmp_path / "x.txt").unlink()
    for _ in range(2):  # its own list is another matter
        main(command)
        assert "4 files written" in capsys.readouterr().out


# What is left of these is nothing, or the fault is none of single files.
EMPTY = ("half-converted images",)
FATAL = [fault for fault in FAULTS + VISA_FAULTS if fault.fatal and fault.name not in EMPTY]


@pytest.mark.parametrize("fault", FATAL, ids=lambda fault: fault.name)
def test_what_is_broken_runs_once_it_is_left_out(copy, fault, tmp_path, capsys):
    dataset, category = unofficial(copy(fault.layout)), CATEGORY[fault.layout]
    fault.plant(Path(dataset.root))
    path = tmp_path / "exclude.txt"
    arguments = [f"dataset={fault.layout}", f"category={category}", f"dataset.root={dataset.root}"]
    assert main(["verify", *arguments, f"write_exclude={path}"]) == 1
    found = verify(dataset, category, seed=42)
    if any(problem.fatal and problem.file == category for problem in found.problems):
        return  # a fault of no single file, which no list can mend
    dataset = replace(dataset, exclude=f"@{path}")
    assert not verify(dataset, category, seed=42).broken
    assert not load_split(dataset, category, seed=42).official
