"""The `verify` and `synthetic` commands."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from harness.data import load_split
from harness.data.__main__ import USAGE, main
from harness.data.load import verify
from tests.data.faults import TRAIN
from tests.data.small import CATEGORY, unofficial
from tests.data.visa_faults import ANOMALY


def test_a_sound_category(copy):
    dataset = copy("mvtec")
    found = verify(dataset, "bottle", seed=42)
    assert found.counts == (24, 4, 5, 5)
    assert found.problems == ()
    assert found.fingerprint == load_split(dataset, "bottle", seed=42).fingerprint


def test_files_are_read_in_as_many_threads_as_the_process_may_use(copy, monkeypatch):
    """In a worker of a sweep these are its share, not all cores of the machine."""
    asked = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers):
            asked.append(workers)
            super().__init__(workers)

    for module in ("load", "inspection"):
        monkeypatch.setattr(f"harness.data.{module}.ThreadPoolExecutor", Pool)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    verify(copy("mvtec"), "bottle", seed=42)
    assert asked == [3, 3]


@pytest.mark.parametrize("layout", CATEGORY)
def test_sound_categories_pass(copy, layout, capsys):
    dataset, category = copy(layout), CATEGORY[layout]
    arguments = [f"dataset={layout}", f"category={category}", f"dataset.root={dataset.root}"]
    assert main(["verify", *arguments]) == 0
    printed = capsys.readouterr().out
    assert load_split(dataset, category, seed=42).fingerprint[:12] in printed
    assert "official" in printed
    assert printed.endswith("1 of 1 categories passed\n")


def test_all_problems_of_all_categories_are_listed(copy, capsys):
    dataset = copy("mvtec")
    root = Path(dataset.root)
    for number in range(6):
        (root / f"bottle/train/good/{number:03}.png").write_bytes(b"")
    (root / "bottle/notes.txt").write_text("x")
    assert main(["verify", "dataset=mvtec", f"dataset.root={root}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for number in range(6):
        line = f"bottle: broken: bottle/train/good/{number:03}.png: is empty (0 bytes)"
        assert line in lines
    assert any(line.startswith("bottle: differs: bottle/notes.txt: is a stray") for line in lines)
    assert any(line.startswith("zipper: broken: zipper: '") for line in lines)
    assert lines[-1] == "0 of 15 categories passed"


def test_names_of_files_are_shown_in_a_line_each(copy, capsys):
    """One rule names a second file: it says it as the file is called."""
    dataset = copy("mvtec")
    [folder, *_] = sorted((Path(dataset.root) / "bottle/ground_truth").iterdir())
    for suffix in ("png", "bmp"):
        (folder / f"\x1b[2Ja\nbottle: \u202e_mask.{suffix}").write_bytes(b"x")
    main(["verify", "dataset=mvtec", "category=bottle", f"dataset.root={dataset.root}"])
    lines = capsys.readouterr().out.split("\n")
    assert all(line.isprintable() for line in lines)
    [second] = [line for line in lines if "is a second mask" in line]
    assert second.count("\\x1b[2Ja\\nbottle: \\u202e_mask") == 2


COMPOSED, DECOMPOSED = "\u00fcber", "u\u0308ber"
APART = r"(which is '\xfcber', and not 'u\u0308ber')"


def settings_of(folder, reader, *categories):
    """Write the settings of a dataset, and return its `dataset=` and `dataset.root=`."""
    path = folder / "mine.yaml"
    lines = ["name: mine", "title: Mine", f"reader: {reader}", "official: false", "categories:"]
    path.write_text("\n".join([*lines, *(f"- {name}" for name in categories)]), encoding="utf-8")
    return [f"dataset={path}", f"dataset.root={folder}"]


@pytest.mark.parametrize("reader", ["mvtec", "btad", "folder"])
def test_a_folder_whose_name_only_looks_the_same_is_told_apart(tmp_path, reader, capsys):
    (tmp_path / DECOMPOSED).mkdir()
    assert main(["verify", *settings_of(tmp_path, reader, COMPOSED)]) == 1
    assert APART in capsys.readouterr().out


def test_a_category_whose_name_only_looks_the_same_is_told_apart(tmp_path, capsys):
    dataset = settings_of(tmp_path, "mvtec", DECOMPOSED)
    assert main(["verify", *dataset, f"category={COMPOSED}"]) == 1
    out, err = capsys.readouterr()
    assert f"got '{COMPOSED}' {APART}" in out + err


def test_a_mask_may_be_composed_otherwise_than_its_image(copy):
    dataset = copy("mvtec")
    image = min((Path(dataset.root) / "bottle/test").glob("[!g]*/*.png"))
    mask = Path(str(image).replace("/test/", "/ground_truth/"))
    renamed = image.rename(image.with_stem(DECOMPOSED))
    mask = mask.with_stem(f"{mask.stem}_mask").rename(mask.with_stem(f"{COMPOSED}_mask"))
    [sample] = [s for s in load_split(dataset, "bottle", seed=42).test if s.path == renamed]
    assert sample.mask_path == mask


def test_a_mask_whose_name_only_looks_the_same_is_told_apart(copy, capsys):
    dataset = copy("mvtec")
    image = min((Path(dataset.root) / "bottle/test").glob("[!g]*/*.png"))
    mask = Path(str(image).replace("/test/", "/ground_truth/"))
    image.rename(image.with_stem("a"))
    mask.with_stem(f"{mask.stem}_mask").rename(mask.with_stem("\uff41_mask"))  # of full width
    main(["verify", "dataset=mvtec", "category=bottle", f"dataset.root={dataset.root}"])
    kind = image.parent.name
    hint = f"(which is '{kind}/\\uff41', and not '{kind}/a')"
    assert f"is a mask without an anomalous image {hint}" in capsys.readouterr().out


def test_a_listed_image_whose_name_only_looks_the_same_is_told_apart(copy, capsys):
    dataset = copy("visa")
    root = Path(dataset.root)
    (root / ANOMALY).rename((root / ANOMALY).with_stem(DECOMPOSED))
    table = root / "split_csv/1cls.csv"
    listed = str(Path(ANOMALY).with_stem(COMPOSED))
    table.write_text(table.read_text().replace(ANOMALY, listed), encoding="utf-8")
    main(["verify", "dataset=visa", "category=cashew", f"dataset.root={root}"])
    assert f"but missing (which is {listed!a}, and not '" in capsys.readouterr().out


def test_differences_pass_when_they_are_wanted(copy, capsys):
    dataset = copy("mvtec")
    (Path(dataset.root) / TRAIN).unlink()
    arguments = ["verify", "dataset=mvtec", "category=bottle", f"dataset.root={dataset.root}"]
    assert main(arguments) == 1
    assert main([*arguments, "dataset.official=false"]) == 0
    assert "unofficial" in capsys.readouterr().out


def test_pixels_that_cannot_be_decoded(copy):
    """A JPEG with a broken Huffman table ends well: only decoding finds it."""
    dataset = copy("visa")
    path = Path(dataset.root) / ANOMALY
    data = bytearray(path.read_bytes())
    table = data.index(b"\xff\xc4")
    data[table + 5 : table + 21] = b"\xff" * 16
    path.write_bytes(data)
    assert load_split(dataset, "cashew", seed=42)
    problems = verify(dataset, "cashew", seed=42).problems
    assert [problem.file for problem in problems] == [ANOMALY]
    assert "cannot be decoded" in problems[0].rule


def test_equal_pixels_in_different_files(copy):
    dataset = copy("btad")
    root = Path(dataset.root)
    with Image.open(root / "03/train/ok/0003.bmp") as image:
        image.save(root / "03/test/ok/0000.bmp", dpi=(300, 300))
    assert load_split(dataset, "03", seed=42)
    assert [str(problem) for problem in verify(dataset, "03", seed=42).problems] == [
        "03/test/ok/0000.bmp: is a test image with the pixels of the training image"
        " 03/train/ok/0003.bmp"
    ]


def test_equal_pixels_that_are_normal_and_anomalous(copy):
    dataset = copy("btad")
    root = Path(dataset.root)
    with Image.open(root / "03/test/ok/0000.bmp") as image:
        image.save(root / "03/test/ko/0001.bmp", dpi=(300, 300))
    assert load_split(dataset, "03", seed=42)
    assert [str(problem) for problem in verify(dataset, "03", seed=42).problems] == [
        "03/test/ko/0001.bmp: is an anomalous image with the pixels of the normal image"
        " 03/test/ok/0000.bmp"
    ]


def test_a_damaged_tiff_is_a_problem_and_no_end(copy):
    dataset = unofficial(copy("mvtec"))
    path = Path(dataset.root) / "bottle/train/good/x.tif"
    one_pixel = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (279, 1)]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in one_pixel)
    # Of a second image there is the offset alone: Pillow raises a TypeError.
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 7) + tags + struct.pack("<IHI", 98, 0, 0))
    problems = verify(dataset, "bottle", seed=42).problems
    [rule] = [problem.rule for problem in problems if problem.file.endswith("x.tif")]
    assert rule.startswith("cannot be decoded (")


def test_elpv_passes(capsys):
    assert main(["verify", "dataset=elpv", "category=mono"]) == 0
    assert "1 of 1 categories passed" in capsys.readouterr().out


def test_an_unofficial_dataset_needs_no_published_one(copy):
    dataset = replace(unofficial(copy("mvtec")), name="mine")
    found = verify(dataset, "bottle", seed=42)
    assert not found.broken
    assert [problem.fatal for problem in found.problems] == [False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify"], "dataset=NAME is missing"),
        (["verify", "dataset=mvtek"], "dataset must be one of btad, elpv, .* got 'mvtek'"),
        (["verify", "dataset=mvtec", "categories=x"], "'categories=x' must be KEY=VALUE with"),
        (["verify", "mvtec"], "'mvtec' must be KEY=VALUE with a key of dataset, category"),
        (["verify", "dataset=mvtec", "seed=x"], "seed must be a whole number, got 'x'"),
        (["verify", "dataset=mvtec", "dataset.official=no"], "must be true or false, got 'no'"),
        (["verify", "dataset=mvtec"], "MVTec AD is not at 'data/mvtec': set dataset.root=PATH, or"),
        (["verify", "dataset=mvtec", "category=botle"], "did you mean 'bottle'"),
        (["synthetic", "dataset=mvtec"], "dataset.root=PATH is missing"),
        *[
            (["synthetic", "dataset=mvtec", "dataset.root=x", f"{key}={value}"], rule)
            for key, rule, values in [
                ("side", "side must be from 16 to 9,459, got -?\\d+$", [0, -1, 200_000]),
                ("scale", "scale must be finite and at least 0, got", ["nan", "inf", "-1"]),
                ("seed", "seed must be at least 0, got -1", [-1]),
            ]
            for value in values
        ],
        (
            ["verify", "dataset=mvtec", "dataset.root=~no-such-user/x"],
            "in a home directory that is not",
        ),
        (
            ["fetch", "dataset=mvtec", "dataset.root=~no-such-user/x"],
            "dataset.root='~no-such-user/x' is in a",
        ),
        (["synthetic", "dataset=elpv", "dataset.root=x"], "one of mvtec, btad, visa, got 'elpv'"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DFKDE_DATA", raising=False)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not list(tmp_path.iterdir())


def test_usage(capsys):
    for arguments in ([], ["help"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err == USAGE


def test_as_a_module(tmp_path):
    command = [sys.executable, "-m", "harness.data"]
    root = f"dataset.root={tmp_path / 'btad'}"
    subprocess.run([*command, "synthetic", "dataset=btad", root, "side=16"], check=True)
    done = subprocess.run(
        [*command, "verify", "dataset=btad", root, "dataset.official=false"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "3 of 3 categories passed" in done.stdout
