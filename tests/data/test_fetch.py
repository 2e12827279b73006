"""Fetching against a real HTTP server on the loopback interface."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from harness.data import DataError, download, fetch, load_split
from harness.data.__main__ import main
from harness.data.archives import ARCHIVES
from harness.data.settings import dataset_settings
from tests.data.serving import archive_of, fetch_to, left_in


def test_a_fetched_dataset_is_complete(server, packed, tmp_path, copy, pristine):
    root = fetch_to(archive_of(server, packed), tmp_path / "data/mvtec")
    assert left_in(root) == {"bottle", ".dfkde"}
    assert not {"data.tar", "data.tar.part", ".mvtec.extracting"} & left_in(root.parent)
    split = load_split(replace(dataset_settings("mvtec"), root=str(root)), "bottle", seed=42)
    assert split.fingerprint == load_split(copy("mvtec"), "bottle", seed=42).fingerprint


def test_progress_counts_to_the_end(server, packed, tmp_path):
    calls = []
    archive = archive_of(server, packed)
    fetch.fetch(archive, tmp_path / "d", categories=["bottle"], progress=lambda *c: calls.append(c))
    assert calls[0] == (0, len(packed))
    assert calls[-1] == (len(packed), len(packed))


def test_a_cut_connection_is_resumed(server, packed, tmp_path):
    server.cuts = [1000, 0, 500]
    fetch_to(archive_of(server, packed), tmp_path / "mvtec")
    assert server.requests == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]


def test_a_server_that_cannot_resume_starts_again(server, packed, tmp_path):
    server.cuts, server.ranges = [1000], False
    fetch_to(archive_of(server, packed), tmp_path / "mvtec")
    assert server.requests == [None, "bytes=1000-"]


def test_a_server_that_keeps_cutting_is_given_up_and_resumed_later(server, packed, tmp_path):
    archive = archive_of(server, packed)
    server.cuts = [1000, 0, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"1000 of \d+ bytes came\); the same command resumes it"):
        fetch_to(archive, tmp_path / "mvtec")
    assert not (tmp_path / "mvtec").exists()
    assert (tmp_path / "data.tar.part").stat().st_size == 1000
    server.cuts = []
    fetch_to(archive, tmp_path / "mvtec")
    assert server.requests[-1] == "bytes=1000-"


def test_a_download_that_was_whole_already(server, packed, tmp_path):
    (tmp_path / "data.tar.part").write_bytes(packed)
    fetch_to(archive_of(server, packed), tmp_path / "mvtec")
    assert server.requests == [f"bytes={len(packed)}-"]


def test_a_wrong_digest_leaves_nothing(server, packed, tmp_path):
    archive = archive_of(server, packed)._replace(sha256="0" * 64)
    with pytest.raises(DataError, match=r"its SHA-256 must be 0{64}, got [0-9a-f]{64}"):
        fetch_to(archive, tmp_path / "mvtec")
    assert left_in(tmp_path) <= {".mvtec.lock"}


def test_the_part_of_another_file_is_found_out(server, packed, tmp_path):
    (tmp_path / "data.tar.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="its SHA-256 must be"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")
    fetch_to(archive_of(server, packed), tmp_path / "mvtec")


def test_an_archive_on_disk_is_verified_used_and_kept(server, packed, tmp_path):
    archive = archive_of(server, packed)
    (tmp_path / "data.tar").write_bytes(packed[:-1])
    with pytest.raises(DataError, match=r"data.tar': its SHA-256 must be .*; remove it first"):
        fetch_to(archive, tmp_path / "mvtec")
    (tmp_path / "data.tar").write_bytes(packed)
    fetch_to(archive, tmp_path / "mvtec")
    assert (tmp_path / "data.tar").exists()
    assert server.requests == []


def test_a_dataset_that_is_there_is_left_alone(server, packed, tmp_path):
    (tmp_path / "mvtec/bottle").mkdir(parents=True)
    with pytest.raises(DataError, match="mvtec' is already there; remove it to fetch it anew"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")
    shutil.rmtree(tmp_path / "mvtec/bottle")
    fetch_to(archive_of(server, packed), tmp_path / "mvtec")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_servers_refusal_is_named(server, packed, tmp_path, status):
    server.status = status
    with pytest.raises(DataError, match=f"data.tar: the server answered {status}"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")


def test_no_server_at_all(server, packed, tmp_path):
    archive = archive_of(server, packed)._replace(url="http://127.0.0.1:9/data.tar")
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*refused\); the same command"):
        fetch_to(archive, tmp_path / "mvtec")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/data.tar"])
def test_only_the_web_is_asked(server, packed, tmp_path, url):
    with pytest.raises(DataError, match="url must start with https:// or http://"):
        fetch_to(archive_of(server, packed)._replace(url=url), tmp_path / "mvtec")


def test_a_disk_too_small_is_noticed_before(server, packed, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 100, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"has 100 bytes free, [\d,]+ are needed"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_downloading(server, packed, tmp_path, monkeypatch):
    full = lambda *_: os.open("/dev/full", os.O_WRONLY)  # noqa: E731
    monkeypatch.setattr(download, "_regular", full)
    with pytest.raises(DataError, match=r"data.tar.part' cannot be written \(No space left"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")


def test_a_disk_that_fills_up_while_extracting(server, packed, tmp_path, monkeypatch):
    opened = Path.open

    def full(path, mode="r", *rest, **more):
        if mode == "xb" and path.name == "003.png":
            return opened(Path("/dev/full"), "wb", buffering=0)
        return opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"003.png' cannot be extracted \(No space left"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")
    monkeypatch.undo()
    assert left_in(tmp_path) == {"data.tar", ".mvtec.lock"}  # the download is not lost


def test_what_an_interrupted_extraction_left_is_cleared(server, packed, tmp_path):
    (tmp_path / ".mvtec.extracting/bottle").mkdir(parents=True)
    (tmp_path / ".mvtec.extracting/bottle/half.png").write_text("x")
    root = fetch_to(archive_of(server, packed), tmp_path / "mvtec")
    assert not list(root.rglob("half.png"))


def test_an_interruption_at_the_last_moment(server, packed, tmp_path, monkeypatch):
    archive, replace_ = archive_of(server, packed), os.replace

    def interrupted(source, target):
        if target == tmp_path / "mvtec":
            raise KeyboardInterrupt
        replace_(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_to(archive, tmp_path / "mvtec")
    monkeypatch.undo()
    assert not (tmp_path / "mvtec").exists()
    fetch_to(archive, tmp_path / "mvtec")
    assert len(server.requests) == 1


def test_two_fetches_at_once(server, packed, tmp_path):
    archive = archive_of(server, packed)
    with fetch._alone(tmp_path / "mvtec"), pytest.raises(DataError, match="by another process"):
        fetch_to(archive, tmp_path / "mvtec")


def test_a_fetched_dataset_knows_its_archive(server, packed, tmp_path, copy):
    copy("mvtec")  # the small dataset passes for published
    root = fetch_to(archive_of(server, packed), tmp_path / "fetched/mvtec")
    dataset = dataset_settings("mvtec", root=str(root))
    assert load_split(dataset, "bottle", seed=42).official
    one, other = (root / f"bottle/ground_truth/{k}/000_mask.png" for k in ("spot", "scratch"))
    swapped = one.read_bytes(), other.read_bytes()
    other.write_bytes(swapped[0])
    one.write_bytes(swapped[1])
    with pytest.raises(DataError, match=r"000_mask.png: is not as it came out of the published"):
        load_split(dataset, "bottle", seed=42)
    assert not load_split(replace(dataset, official=False), "bottle", seed=42).official
    manifest = root / ".dfkde/archive/bottle.json"
    assert set(json.loads(manifest.read_text())["content"]) == {
        path.relative_to(root).as_posix() for path in (root / "bottle").rglob("*.png")
    }


def test_the_command_line(server, packed, tmp_path, monkeypatch, capsys):
    archive = archive_of(server, packed)._replace(url="http://127.0.0.1:9/x", licence="CC TEST 1.0")
    monkeypatch.setitem(ARCHIVES, "mvtec", archive)
    monkeypatch.setenv("DFKDE_DATA", str(tmp_path))
    monkeypatch.setattr(
        "harness.data.__main__.dataset_settings",
        lambda name, root: replace(dataset_settings(name, root=root), categories=["bottle"]),
    )
    assert main(["fetch", "dataset=mvtec", f"url={server.url}"]) == 0
    printed = capsys.readouterr().out
    assert "CC TEST 1.0" in printed
    assert str(tmp_path / "mvtec") in printed
    assert (tmp_path / "mvtec/bottle").is_dir()
    assert main(["fetch", "dataset=mvtec", f"url={server.url}"]) == 1
    assert "is already there" in capsys.readouterr().err


def test_what_cannot_be_fetched(capsys):
    assert main(["fetch", "dataset=elpv"]) == 1
    assert "dataset must be one of mvtec, btad, visa, got 'elpv'" in capsys.readouterr().err
