"""Files are read once, and the fingerprint is the same everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.data import DataError, load, load_split
from harness.data.inspection import Inspection, fingerprint
from harness.system.files import write_json
from tests.data.small import CATEGORY, unofficial


def _count_looks(monkeypatch):
    looked = []
    inspect = load._inspect
    monkeypatch.setattr(load, "_inspect", lambda *args: looked.append(args[1]) or inspect(*args))
    return looked


@pytest.mark.parametrize("layout", CATEGORY)
def test_files_are_read_once(copy, layout, monkeypatch):
    dataset = copy(layout)
    looked = _count_looks(monkeypatch)
    first = load_split(dataset, CATEGORY[layout], seed=42)
    assert len(looked) == len(set(looked)) > len(first.train) + len(first.test)
    looked.clear()
    assert load_split(dataset, CATEGORY[layout], seed=42) == first
    assert looked == []


def test_only_what_changed_is_read_again(copy, monkeypatch):
    dataset = copy("mvtec")
    first = load_split(dataset, "bottle", seed=42)
    looked = _count_looks(monkeypatch)
    name = "bottle/train/good/003.png"
    data = (Path(dataset.root) / name).read_bytes()
    (Path(dataset.root) / name).write_bytes(data + b"\0")
    second = load_split(dataset, "bottle", seed=42)
    assert looked == [name]
    assert second.fingerprint != first.fingerprint


def test_files_swapped_within_one_second_are_told_apart(copy):
    dataset = copy("btad")  # BMP files of one category are all of one size
    folder = Path(dataset.root) / "03/train/ok"
    one, other = folder / "0000.bmp", folder / "0001.bmp"
    for path in (one, other):
        os.utime(path, ns=(10**18, 10**18))
    before = {sample.name: sample.digest for sample in load_split(dataset, "03", seed=42).train}
    one.rename(folder / "x")
    other.rename(one)
    (folder / "x").rename(other)
    after = {sample.name: sample.digest for sample in load_split(dataset, "03", seed=42).train}
    assert before["03/train/ok/0000.bmp"] == after["03/train/ok/0001.bmp"]
    assert before["03/train/ok/0001.bmp"] == after["03/train/ok/0000.bmp"]


def test_digests_are_sha256_of_the_files(copy):
    split = load_split(copy("visa"), "cashew", seed=42)
    for sample in (*split.train[:3], *split.test[:3]):
        assert sample.digest == hashlib.sha256(sample.path.read_bytes()).hexdigest()


def test_the_cache_lies_beside_the_data(copy, user_cache):
    dataset = copy("mvtec")
    load_split(dataset, "bottle", seed=42)
    assert (Path(dataset.root) / ".dfkde/bottle.json").is_file()
    assert not list(user_cache.rglob("*.json"))


def test_the_umask_decides_who_shares_the_cache(copy):
    dataset = copy("mvtec")
    before = os.umask(0o002)
    try:
        load_split(dataset, "bottle", seed=42)
    finally:
        os.umask(before)
    [cache] = (Path(dataset.root) / ".dfkde").iterdir()
    assert cache.stat().st_mode & 0o777 == 0o664


def test_a_read_only_dataset_has_the_users_cache(copy, user_cache, monkeypatch):
    dataset = copy("mvtec")
    root = Path(dataset.root)
    root.chmod(0o555)
    split = load_split(dataset, "bottle", seed=42)
    assert not (root / ".dfkde").exists()
    assert len(list(user_cache.rglob("bottle.json"))) == 1
    looked = _count_looks(monkeypatch)
    assert load_split(dataset, "bottle", seed=42) == split
    assert looked == []


def test_without_any_place_for_the_cache_it_works(copy, tmp_path, monkeypatch):
    dataset = copy("mvtec")
    Path(dataset.root).chmod(0o555)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_split(dataset, "bottle", seed=42).official


OTHER_SHAPES = ["", "[]", "{}", "3", "null", '{"version": 2, "files": {"x": 3}}', "\0"]
OTHER_SHAPES += ['{"checksum": [], "content": {}}', "[" * 100_000, '{"content": {}}']


@pytest.mark.parametrize("text", OTHER_SHAPES, ids=range(len(OTHER_SHAPES)))
def test_a_broken_cache_is_made_again(copy, text, caplog):
    dataset = copy("mvtec")
    split = load_split(dataset, "bottle", seed=42)
    cache = Path(dataset.root) / ".dfkde/bottle.json"
    cache.write_text(text)
    assert load_split(dataset, "bottle", seed=42) == split
    assert len(json.loads(cache.read_text())["content"]["files"]) == 24 + 4 + 5 + 5
    assert caplog.messages == [f"{cache} is damaged; the files are read again"]


@pytest.mark.parametrize("share", np.linspace(0, 0.999, 41))
def test_no_flipped_bit_of_the_cache_goes_unnoticed(copy, share):
    """Whichever field it hits: a digest, a size, a stamp, the name of a file, the checksum."""
    dataset = copy("mvtec")
    split = load_split(dataset, "bottle", seed=42)
    cache = Path(dataset.root) / ".dfkde/bottle.json"
    kept = cache.read_bytes()
    position = int(share * len(kept))
    cache.write_bytes(kept[:position] + bytes([kept[position] ^ 1]) + kept[position + 1 :])
    assert load_split(dataset, "bottle", seed=42) == split
    assert json.loads(cache.read_bytes()) == json.loads(kept)


@pytest.mark.parametrize("field", range(7))
def test_no_other_digit_in_the_cache_goes_unnoticed(copy, field, caplog):
    dataset = copy("mvtec")
    split = load_split(dataset, "bottle", seed=42)
    cache = Path(dataset.root) / ".dfkde/bottle.json"
    kept = json.loads(cache.read_text())
    files = kept["content"]["files"]
    name = next(iter(files))
    fields = files[name].split()
    fields[field] = fields[field][:-1] + ("1" if fields[field][-1] == "0" else "0")
    files[name] = " ".join(fields)
    cache.write_text(json.dumps(kept))
    assert load_split(dataset, "bottle", seed=42) == split
    assert len(caplog.messages) == 1


def test_the_cache_of_another_category_is_none(copy, caplog):
    dataset = copy("mvtec")
    cache = Path(dataset.root) / ".dfkde/bottle.json"
    write_json(cache, {}, key="inspections of grid")
    load_split(dataset, "bottle", seed=42)
    assert caplog.messages == [f"{cache} is damaged; the files are read again"]


@pytest.mark.parametrize("version", [None, 2, 999])
def test_a_cache_of_another_version_is_made_again_in_silence(copy, monkeypatch, caplog, version):
    dataset = copy("mvtec")
    split = load_split(dataset, "bottle", seed=42)
    cache = Path(dataset.root) / ".dfkde/bottle.json"
    kept = cache.read_text()
    files = json.loads(kept)["content"]["files"]
    other = files if version is None else {"version": version, "files": files}
    write_json(cache, other, key="inspections of bottle")
    looked = _count_looks(monkeypatch)
    assert load_split(dataset, "bottle", seed=42) == split
    assert len(looked) == len(files)
    assert cache.read_text() == kept
    assert not caplog.messages


def test_without_a_home_directory_it_works(copy, monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", unknown)
    dataset = copy("mvtec")
    assert load_split(dataset, "bottle", seed=42).official
    assert (Path(dataset.root) / ".dfkde/bottle.json").is_file()


def test_a_pipe_in_the_place_of_the_cache_is_not_waited_for(copy, caplog):
    dataset = copy("mvtec")
    cache = Path(dataset.root) / ".dfkde/bottle.json"
    cache.parent.mkdir()
    os.mkfifo(cache)
    split = load_split(dataset, "bottle", seed=42)
    assert caplog.messages == [f"{cache} is damaged; the files are read again"]
    assert cache.is_file()
    assert load_split(dataset, "bottle", seed=42) == split


def test_a_link_beside_the_data_is_not_written_through(copy, tmp_path, user_cache):
    dataset = copy("mvtec")
    (tmp_path / "of_somebody").mkdir()
    (tmp_path / "of_somebody/bottle.json").write_text("important")
    (Path(dataset.root) / ".dfkde").symlink_to(tmp_path / "of_somebody")
    load_split(dataset, "bottle", seed=42)
    assert (tmp_path / "of_somebody/bottle.json").read_text() == "important"
    assert len(list(user_cache.rglob("bottle.json"))) == 1


@pytest.mark.parametrize(("layout", "name"), [("visa", "split_csv/1cls.csv")])
def test_a_pipe_in_the_place_of_a_label_file_is_not_waited_for(copy, layout, name):
    dataset = copy(layout)
    (Path(dataset.root) / name).unlink()
    os.mkfifo(Path(dataset.root) / name)
    with pytest.raises(DataError, match=r"the split file cannot be read .*is not a regular file"):
        load_split(dataset, CATEGORY[layout], seed=42)


def test_the_fingerprint_does_not_depend_on_the_place(copy, tmp_path):
    dataset = copy("visa")
    here = load_split(dataset, "cashew", seed=42)
    shutil.copytree(dataset.root, tmp_path / "there", ignore=shutil.ignore_patterns(".dfkde"))
    there = load_split(replace(dataset, root=str(tmp_path / "there")), "cashew", seed=1)
    assert here.fingerprint == there.fingerprint


def test_the_fingerprint_depends_on_names_contents_and_labels(copy):
    dataset = copy("visa")
    seen = [load_split(dataset, "cashew", seed=42).fingerprint]
    mask = Path(dataset.root) / "cashew/Data/Masks/Anomaly/000.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    seen.append(load_split(dataset, "cashew", seed=42).fingerprint)
    csv = Path(dataset.root) / "split_csv/1cls.csv"
    csv.write_text(csv.read_text() + "candle,train,normal,candle/x.JPG,\n")
    seen.append(load_split(dataset, "cashew", seed=42).fingerprint)
    assert len(set(seen)) == 3


def test_composed_and_decomposed_names_are_one(copy):
    dataset = copy("mvtec")
    found = load.survey(dataset, "bottle", seed=42)
    composed = {f"é/{name}": inspection for name, inspection in found.seen.items()}
    decomposed = {
        f"e\N{COMBINING ACUTE ACCENT}/{name}": inspection for name, inspection in found.seen.items()
    }
    assert fingerprint(composed) == fingerprint(decomposed)


def test_names_with_line_breaks_share_no_fingerprint():
    """A name could otherwise hold what looks like the digest and the name of other files."""
    one, other = (Inspection(digit * 64, 1, 1, -1) for digit in "ab")
    sets = [
        {"a": one, "b": other},
        {f"a\n{one.digest}\nb": other},
        {f"a\\n{one.digest}\\nb": other},
        {f"\na\\n{one.digest}\\nb": other},
        {f"a\n{one.digest}\nb\n": other},
        {"\n": one, "b": other},
        {"": one, "\\n": other, "b": other},
    ]
    assert len({fingerprint(seen) for seen in sets}) == len(sets)


def test_names_without_line_breaks_keep_their_fingerprint():
    seen = {r"a\n\b é.png": Inspection("a" * 64, 1, 1, -1), "b\t": Inspection("b" * 64, 1, 1, 3)}
    lines = "".join(f"{name}\n{inspection.digest}\n" for name, inspection in seen.items())
    assert fingerprint(seen) == hashlib.sha256(lines.encode()).hexdigest()


def test_two_names_that_unicode_composes_to_one_are_refused(copy):
    dataset = unofficial(copy("mvtec"))
    folder = Path(dataset.root) / "bottle/train/good"
    shutil.copyfile(folder / "000.png", folder / "\N{LATIN SMALL LETTER E WITH ACUTE}.png")
    load_split(dataset, "bottle", seed=42)
    shutil.copyfile(folder / "001.png", folder / "e\N{COMBINING ACUTE ACCENT}.png")
    with pytest.raises(DataError, match=r"has the same name as 'bottle/train/good/.* in Unicode's"):
        load_split(dataset, "bottle", seed=42)
