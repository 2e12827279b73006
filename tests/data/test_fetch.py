"""Fetching against a real HTTP server on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from collections import namedtuple
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.data import DataError, download, fetch, load_split
from harness.data.__main__ import main
from harness.data.archives import ARCHIVES, Archive
from harness.data.settings import dataset_settings


class Server(ThreadingHTTPServer):
    """Serves one archive; may cut connections, ignore ranges or answer with an error."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = b""
        self.cuts: list[int] = []
        self.ranges = True
        self.status = 200
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/data.tar"

    def handle_error(self, request, client_address):
        pass


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(wanted[6:-1]) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def packed(pristine, tmp_path) -> bytes:
    """A tar archive of the synthetic bottle, below a top folder as in BTAD's archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as bundle:
        bundle.add(pristine / "mvtec/bottle", "the_dataset/bottle")
    return buffer.getvalue()


def _archive(server: Server, content: bytes) -> Archive:
    server.content = content
    return Archive(server.url, hashlib.sha256(content).hexdigest(), "none", "none")


def _fetch(archive: Archive, root: Path) -> Path:
    return fetch.fetch(archive, root, categories=["bottle"], progress=lambda done, total: None)


def _left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_fetched_dataset_is_complete(server, packed, tmp_path, copy, pristine):
    root = _fetch(_archive(server, packed), tmp_path / "data/mvtec")
    assert _left(root) == {"bottle", ".dfkde"}
    assert not {"data.tar", "data.tar.part", ".mvtec.extracting"} & _left(root.parent)
    split = load_split(replace(dataset_settings("mvtec"), root=str(root)), "bottle", seed=42)
    assert split.fingerprint == load_split(copy("mvtec"), "bottle", seed=42).fingerprint


def test_progress_counts_to_the_end(server, packed, tmp_path):
    calls = []
    archive = _archive(server, packed)
    fetch.fetch(archive, tmp_path / "d", categories=["bottle"], progress=lambda *c: calls.append(c))
    assert calls[0] == (0, len(packed))
    assert calls[-1] == (len(packed), len(packed))


def test_a_cut_connection_is_resumed(server, packed, tmp_path):
    server.cuts = [1000, 0, 500]
    _fetch(_archive(server, packed), tmp_path / "mvtec")
    assert server.requests == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]


def test_a_server_that_cannot_resume_starts_again(server, packed, tmp_path):
    server.cuts, server.ranges = [1000], False
    _fetch(_archive(server, packed), tmp_path / "mvtec")
    assert server.requests == [None, "bytes=1000-"]


def test_a_server_that_keeps_cutting_is_given_up_and_resumed_later(server, packed, tmp_path):
    archive = _archive(server, packed)
    server.cuts = [1000, 0, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"1000 of \d+ bytes came\); the same command resumes it"):
        _fetch(archive, tmp_path / "mvtec")
    assert not (tmp_path / "mvtec").exists()
    assert (tmp_path / "data.tar.part").stat().st_size == 1000
    server.cuts = []
    _fetch(archive, tmp_path / "mvtec")
    assert server.requests[-1] == "bytes=1000-"


def test_a_download_that_was_whole_already(server, packed, tmp_path):
    (tmp_path / "data.tar.part").write_bytes(packed)
    _fetch(_archive(server, packed), tmp_path / "mvtec")
    assert server.requests == [f"bytes={len(packed)}-"]


def test_a_wrong_digest_leaves_nothing(server, packed, tmp_path):
    archive = _archive(server, packed)._replace(sha256="0" * 64)
    with pytest.raises(DataError, match=r"its SHA-256 must be 0{64}, got [0-9a-f]{64}"):
        _fetch(archive, tmp_path / "mvtec")
    assert _left(tmp_path) <= {".mvtec.lock"}


def test_the_part_of_another_file_is_found_out(server, packed, tmp_path):
    (tmp_path / "data.tar.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="its SHA-256 must be"):
        _fetch(_archive(server, packed), tmp_path / "mvtec")
    _fetch(_archive(server, packed), tmp_path / "mvtec")


def test_an_archive_on_disk_is_verified_used_and_kept(server, packed, tmp_path):
    archive = _archive(server, packed)
    (tmp_path / "data.tar").write_bytes(packed[:-1])
    with pytest.raises(DataError, match=r"data.tar': its SHA-256 must be .*; remove it first"):
        _fetch(archive, tmp_path / "mvtec")
    (tmp_path / "data.tar").write_bytes(packed)
    _fetch(archive, tmp_path / "mvtec")
    assert (tmp_path / "data.tar").exists()
    assert server.requests == []


def test_a_dataset_that_is_there_is_left_alone(server, packed, tmp_path):
    (tmp_path / "mvtec/bottle").mkdir(parents=True)
    with pytest.raises(DataError, match="mvtec' is already there; remove it to fetch it anew"):
        _fetch(_archive(server, packed), tmp_path / "mvtec")
    shutil.rmtree(tmp_path / "mvtec/bottle")
    _fetch(_archive(server, packed), tmp_path / "mvtec")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_servers_refusal_is_named(server, packed, tmp_path, status):
    server.status = status
    with pytest.raises(DataError, match=f"data.tar: the server answered {status}"):
        _fetch(_archive(server, packed), tmp_path / "mvtec")


def test_no_server_at_all(server, packed, tmp_path):
    archive = _archive(server, packed)._replace(url="http://127.0.0.1:9/data.tar")
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*refused\); the same command"):
        _fetch(archive, tmp_path / "mvtec")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/data.tar"])
def test_only_the_web_is_asked(server, packed, tmp_path, url):
    with pytest.raises(DataError, match="url must start with https:// or http://"):
        _fetch(_archive(server, packed)._replace(url=url), tmp_path / "mvtec")


def test_a_disk_too_small_is_noticed_before(server, packed, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 100, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"has 100 bytes free, [\d,]+ are needed"):
        _fetch(_archive(server, packed), tmp_path / "mvtec")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_downloading(server, packed, tmp_path):
    (tmp_path / "data.tar.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"data.tar.part' cannot be written \(No space left"):
        _fetch(_archive(server, packed), tmp_path / "mvtec")


def test_a_disk_that_fills_up_while_extracting(server, packed, tmp_path, monkeypatch):
    opened = Path.open

    def full(path, mode="r", *rest, **more):
        if mode == "xb" and path.name == "003.png":
            return opened(Path("/dev/full"), "wb", buffering=0)
        return opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"003.png' cannot be extracted \(No space left"):
        _fetch(_archive(server, packed), tmp_path / "mvtec")
    monkeypatch.undo()
    assert _left(tmp_path) == {"data.tar", ".mvtec.lock"}  # the download is not lost


def test_what_an_interrupted_extraction_left_is_cleared(server, packed, tmp_path):
    (tmp_path / ".mvtec.extracting/bottle").mkdir(parents=True)
    (tmp_path / ".mvtec.extracting/bottle/half.png").write_text("x")
    root = _fetch(_archive(server, packed), tmp_path / "mvtec")
    assert not list(root.rglob("half.png"))


def test_an_interruption_at_the_last_moment(server, packed, tmp_path, monkeypatch):
    archive, replace_ = _archive(server, packed), os.replace

    def interrupted(source, target):
        if target == tmp_path / "mvtec":
            raise KeyboardInterrupt
        replace_(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _fetch(archive, tmp_path / "mvtec")
    monkeypatch.undo()
    assert not (tmp_path / "mvtec").exists()
    _fetch(archive, tmp_path / "mvtec")
    assert len(server.requests) == 1


def test_two_fetches_at_once(server, packed, tmp_path):
    archive = _archive(server, packed)
    with fetch._alone(tmp_path / "mvtec"), pytest.raises(DataError, match="by another process"):
        _fetch(archive, tmp_path / "mvtec")


def test_the_wrong_archive(server, tmp_path):
    content = _tar(("cat/train/good/000.png", None))
    with pytest.raises(DataError, match="does not hold the categories bottle"):
        _fetch(_archive(server, content), tmp_path / "mvtec")
    assert not (tmp_path / "mvtec").exists()


def _tar(*members: tuple[str, dict | None]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as bundle:
        for name, attributes in members:
            member = tarfile.TarInfo(name)
            for key, value in (attributes or {}).items():
                setattr(member, key, value)
            member.size = 4 if member.isreg() else 0
            bundle.addfile(member, io.BytesIO(b"evil"))
    return buffer.getvalue()


def _zip(name: str, mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        bundle.writestr(info, "/etc/passwd")
    return buffer.getvalue()


MALICIOUS = {
    "parent": (_tar(("../evil", None)), r"'../evil' would lie outside"),
    "inner parent": (_tar(("bottle/../../evil", None)), "would lie outside"),
    "absolute": (_tar(("/tmp/evil", None)), "would lie outside"),
    "backslash": (_tar(("..\\evil", None)), "would lie outside"),
    "symlink": (_tar(("bottle/x", {"type": tarfile.SYMTYPE, "linkname": "/etc"})), "a link or"),
    "hard link": (_tar(("bottle/x", {"type": tarfile.LNKTYPE, "linkname": "y"})), "a link or"),
    "device": (_tar(("bottle/x", {"type": tarfile.CHRTYPE})), "is a link or device"),
    "pipe": (_tar(("bottle/x", {"type": tarfile.FIFOTYPE})), "is a link or device"),
    "through a link": (
        _tar(("bottle", {"type": tarfile.SYMTYPE, "linkname": ".."}), ("bottle/evil", None)),
        "'bottle' is a link or device",
    ),
    "twice": (_tar(("bottle/x", None), ("bottle/x", None)), "'bottle/x' lies over another member"),
    "file as folder": (_tar(("bottle", None), ("bottle/x", None)), "'bottle/x' "),
    "zip parent": (_zip("../evil"), "would lie outside"),
    "zip absolute": (_zip("/tmp/evil"), "would lie outside"),
    "zip symlink": (_zip("bottle/x", stat.S_IFLNK | 0o777), "'bottle/x' is a link or device"),
    "no archive": (b"hello " * 1000, "is damaged"),
    "cut zip": (_zip("bottle/x")[:40], "is damaged"),
    "cut archive": (_tar(("bottle/x", None))[:600], "is damaged|does not hold"),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_a_malicious_archive_writes_nothing(server, tmp_path, name):
    content, message = MALICIOUS[name]
    folder = tmp_path / "outer/inner"
    with pytest.raises(DataError, match=message) as caught:
        _fetch(_archive(server, content), folder / "mvtec")
    assert "\n" not in str(caught.value)
    assert _left(folder) == {"data.tar", ".mvtec.lock"}
    assert _left(tmp_path) == {"outer"}
    assert not Path("/tmp/evil").exists()


def test_modes_are_not_taken_over(server, packed, tmp_path):
    content = _tar(("bottle/x", {"mode": 0o4777}), ("bottle/y", {"mode": 0}))
    root = _fetch(_archive(server, content), tmp_path / "mvtec")
    for name in ("x", "y"):
        mode = stat.S_IMODE(os.stat(root / "bottle" / name).st_mode)
        assert mode & 0o7111 == 0
        assert mode & 0o400


def test_a_zip_archive(server, tmp_path):
    root = _fetch(_archive(server, _zip("top/bottle/x")), tmp_path / "mvtec")
    assert (root / "bottle/x").read_text() == "/etc/passwd"


def test_a_fetched_dataset_knows_its_archive(server, packed, tmp_path, copy):
    copy("mvtec")  # the small dataset passes for published
    root = _fetch(_archive(server, packed), tmp_path / "fetched/mvtec")
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
    assert set(json.loads(manifest.read_text())) == {
        path.relative_to(root).as_posix() for path in (root / "bottle").rglob("*.png")
    }
    manifest.write_text("{")
    with pytest.raises(DataError, match=r"bottle.json' cannot be read"):
        load_split(dataset, "bottle", seed=42)


def test_the_command_line(server, packed, tmp_path, monkeypatch, capsys):
    archive = _archive(server, packed)._replace(url="http://127.0.0.1:9/x", licence="CC TEST 1.0")
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
