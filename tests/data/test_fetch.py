"""Fetching against a real HTTP server on the loopback interface."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import tarfile
import threading
import urllib.request
from collections import namedtuple
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPMessage as Message
from pathlib import Path

import pytest

from harness.data import DataError, fetch, load_split
from harness.data.__main__ import main
from harness.data.load import dataset_settings
from harness.data.official import ARCHIVES, Archive, write_manifest
from harness.system import locks
from harness.system.locks import NO_LOCKS, hold
from tests.data.serving import archive_of, fetch_to, left_in, replying


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
    with pytest.raises(DataError, match="mvtec' is already there; remove it to fetch it again"):
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


@pytest.mark.parametrize("scheme", ["HTTP", "Http"])
def test_the_scheme_may_be_written_in_capitals(server, packed, tmp_path, scheme):
    archive = archive_of(server, packed)
    fetch_to(archive._replace(url=archive.url.replace("http", scheme)), tmp_path / "mvtec")


@pytest.mark.parametrize("blank", [" ", "\t", "\n", "\x7f"])
def test_an_address_with_a_blank_is_refused_at_once(tmp_path, blank):
    rule = "url must hold no blank and no control character, got 'http://127"
    assert rule in failure(tmp_path, f"http://127.0.0.1:9/a{blank}b/data.tar")


def test_a_disk_too_small_is_noticed_before(server, packed, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 100, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"has 100 bytes free, [\d,]+ are needed"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_downloading(server, packed, tmp_path, monkeypatch):
    full = lambda *_: os.open("/dev/full", os.O_WRONLY)  # noqa: E731
    monkeypatch.setattr(fetch, "_regular", full)
    with pytest.raises(DataError, match=r"data.tar.part' cannot be written \(No space left"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")


def test_a_disk_that_fills_up_while_extracting(server, packed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "makefile", full)
    with pytest.raises(DataError, match=r"mvtec' cannot be made \(No space left"):
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
    with hold(tmp_path / ".mvtec.lock"), pytest.raises(DataError, match="by another process"):
        fetch_to(archive, tmp_path / "mvtec")


@pytest.mark.parametrize("number", sorted(NO_LOCKS))
def test_without_locks_it_is_fetched_with_a_warning(server, packed, tmp_path, number, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_warned", set())
    with pytest.warns(
        UserWarning, match=rf"has no locks \({os.strerror(number)}\): processes that"
    ):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")


def test_another_failure_to_lock_is_told_as_it_is(server, packed, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DataError, match=r"mvtec' cannot be made \(Input/output error\)$"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")


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


DAMAGE = {
    "cut": lambda text: text[: len(text) // 2],
    "another digit": lambda text: text.replace("0", "1", 1),
    "a list": lambda text: "[]",
    "a number": lambda text: "3",
    "a digest that is none": lambda text: '{"checksum": "x", "content": {"bottle/x": []}}',
    "no checksum": lambda text: json.dumps(json.loads(text)["content"]),
    "of another folder": lambda text: None,
}


@pytest.mark.parametrize("name", [*DAMAGE, "a pipe"])
def test_a_damaged_list_of_what_came_out_of_the_archive_is_named(
    server, packed, tmp_path, copy, name
):
    copy("mvtec")  # the small dataset passes for published
    root = fetch_to(archive_of(server, packed), tmp_path / "fetched/mvtec")
    dataset = dataset_settings("mvtec", root=str(root))
    manifest = root / ".dfkde/archive/bottle.json"
    text = manifest.read_text()
    manifest.unlink()
    if name == "a pipe":
        os.mkfifo(manifest)
    elif name == "of another folder":
        write_manifest(root, {"grid/x.png": "0" * 64})
        (root / ".dfkde/archive/grid.json").rename(manifest)
    else:
        manifest.write_text(DAMAGE[name](text))
    with pytest.raises(DataError) as caught:
        load_split(dataset, "bottle", seed=42)
    assert str(caught.value).startswith(f"'{manifest}' is damaged or has no checksum; ")
    rule = (
        "; remove that file to go on without the comparison with the archive, or remove the dataset"
    )
    assert str(caught.value).endswith(f"{rule} and fetch it again")
    assert "\n" not in str(caught.value)


def test_a_list_of_what_came_out_is_the_same_elsewhere(server, packed, tmp_path, copy):
    copy("mvtec")
    root = fetch_to(archive_of(server, packed), tmp_path / "fetched/mvtec")
    shutil.copytree(root, tmp_path / "moved")
    dataset = dataset_settings("mvtec", root=str(tmp_path / "moved"))
    assert load_split(dataset, "bottle", seed=42).official


@pytest.mark.parametrize("name", [".mvtec.lock", "data.tar.part"])
def test_no_file_of_somebody_is_written_through_a_link(server, packed, tmp_path, name):
    (tmp_path / "important").write_text("of somebody")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).symlink_to(tmp_path / "important")
    with pytest.raises(DataError, match=rf"{name}' cannot be .* \(Too many levels of symbolic"):
        fetch_to(archive_of(server, packed), tmp_path / "in/mvtec")
    assert (tmp_path / "important").read_text() == "of somebody"


def test_no_folder_of_somebody_is_removed_through_a_link(server, packed, tmp_path):
    (tmp_path / "important").mkdir()
    (tmp_path / "important/file").write_text("of somebody")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/.mvtec.extracting").symlink_to(tmp_path / "important")
    with pytest.raises(DataError, match=r"\.mvtec\.extracting' cannot be made \(File exists\)"):
        fetch_to(archive_of(server, packed), tmp_path / "in/mvtec")
    assert left_in(tmp_path / "important") == {"file"}


@pytest.mark.parametrize("name", ["data.tar", "data.tar.part"])
def test_a_pipe_in_the_place_of_the_archive_is_not_waited_for(server, packed, tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}' .*(not a regular file|No such device)"):
        fetch_to(archive_of(server, packed), tmp_path / "mvtec")


@pytest.mark.parametrize("path", ["", "/", "/a/..", "/?name=x"])
def test_an_address_that_names_no_file(server, packed, tmp_path, path):
    archive = archive_of(server, packed)._replace(url=f"http://127.0.0.1:9{path}")
    with pytest.raises(DataError, match="url must end with the name of a file, got 'http://127"):
        fetch_to(archive, tmp_path / "mvtec")


def test_an_address_that_is_malformed(server, packed, tmp_path):
    for url in ("http://[x/data.tar", "http://a..b/data.tar"):
        archive = archive_of(server, packed)._replace(url=url)
        with pytest.raises(DataError, match=r"url must end|malformed \("):
            fetch_to(archive, tmp_path / "mvtec")


@pytest.mark.parametrize("length", ["x", "-5", "1e3", "9" * 5000, "\x1b[2J", ""])
def test_a_length_that_is_no_number_is_as_none(tmp_path, packed, length):
    archive = Archive("", hashlib.sha256(packed).hexdigest(), "none", "none")
    with replying(
        b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % length.encode() + packed
    ) as url:
        root = fetch_to(archive._replace(url=url), tmp_path / "mvtec")
    assert (root / "bottle").is_dir()


def failure(tmp_path, url):
    """Return the one line in which fetching from an address is given up."""
    with pytest.raises(DataError) as caught:
        fetch_to(Archive(url, "0" * 64, "none", "none"), tmp_path / "in/mvtec")
    assert str(caught.value).isprintable()
    assert left_in(tmp_path / "in") <= {".mvtec.lock"}
    return str(caught.value)


PLACES = {
    "ftp://127.0.0.1:9/data.tar": "must start with https:// or http://",
    "file:///etc/passwd": "must start with https:// or http://",
    "data:text/plain,x": "must start with https:// or http://",
    "http://[x/data.tar": "is malformed",
    "//[x/data.tar": "is malformed",
    "http://a..b/data.tar": "is malformed",
    "http://127.0.0.1:x/data.tar": "cannot be downloaded",
    "ftp://\x1bc/data.tar": "must start with",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_redirect_to_anywhere_but_the_web_is_not_followed(tmp_path, place, monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.0)
    with replying(b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % place.encode()) as url:
        assert PLACES[place] in failure(tmp_path, url)


def test_a_redirect_by_the_other_header_is_not_followed_either(tmp_path):
    with replying(b"HTTP/1.1 302 Found\r\nURI: ftp://127.0.0.1:9/data.tar\r\n\r\n") as url:
        assert "must start with https:// or http://" in failure(tmp_path, url)


def test_a_redirect_gives_up_no_encryption():
    request = urllib.request.Request("https://host/data.tar")
    headers = Message()
    headers["Location"] = "http://host/data.tar"
    with pytest.raises(DataError, match=r"host/data.tar', which must start with https://$"):
        fetch._Redirects().http_error_302(request, io.BytesIO(), 302, "Found", headers)


def test_a_redirect_within_the_web_is_followed(server, packed, tmp_path):
    archive = archive_of(server, packed)
    with replying(b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % server.url.encode()) as url:
        root = fetch_to(archive._replace(url=url), tmp_path / "mvtec")
    assert (root / "bottle").is_dir()


def test_redirects_in_a_circle(tmp_path):
    with replying(b"HTTP/1.1 302 Found\r\nLocation: /data.tar\r\n\r\n") as url:
        assert "the server answered 302" in failure(tmp_path, url)


def test_the_body_of_a_redirect_is_not_read(server, packed, tmp_path):
    """It may be endless, and urllib reads all of it into memory."""
    archive = archive_of(server, packed)
    reply = b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % server.url.encode()
    with replying(reply, endless=bytes(2**16)) as url:
        fetch_to(archive._replace(url=url), tmp_path / "mvtec")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 403 \x1b[2Jno\r\n\r\n",
        b"\x1b[2J\r\n\r\n",
        b"HTTP/1.1 \x1b[2J\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
    ids=range(5),
)
def test_what_a_server_says_is_shown_without_its_escape_sequences(tmp_path, reply, monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.0)
    with replying(reply) as url:
        assert "data.tar: " in failure(tmp_path, url)


@pytest.mark.parametrize(
    "headers", [b"", b"Content-Length: x\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_a_body_without_end_is_given_up_and_deleted(tmp_path, headers, monkeypatch):
    monkeypatch.setattr(fetch, "_MOST_BYTES", 2**22)
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n" if b"chunked" in headers else bytes(2**16)
    with replying(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n", endless=chunk) as url:
        assert "does not end after 4,194,304 bytes; what was received was deleted" in failure(
            tmp_path, url
        )


def test_a_body_without_end_does_not_fill_the_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**7, 10**7 - 2**20, 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with replying(b"HTTP/1.1 200 OK\r\n\r\n", endless=bytes(2**16)) as url:
        assert "does not end after 1,048,576 bytes" in failure(tmp_path, url)


def test_more_bytes_than_any_archive_has_are_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_MOST_BYTES", 2**22)
    with replying(b"HTTP/1.1 200 OK\r\nContent-Length: 4194305\r\n\r\n") as url:
        assert "4,194,305 bytes are too many for an archive" in failure(tmp_path, url)


def test_bytes_behind_the_declared_length_are_not_read(tmp_path, packed):
    archive = Archive("", hashlib.sha256(packed).hexdigest(), "none", "none")
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    with replying(reply, endless=bytes(2**16)) as url:
        fetch_to(archive._replace(url=url), tmp_path / "mvtec")


def test_a_server_that_falls_silent_is_not_waited_for(tmp_path, monkeypatch):
    """Whatever it sends before: each wait has the limit, not each megabyte."""
    monkeypatch.setattr(fetch, "_TIMEOUT_S", 0.05)
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.0)
    progress = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_fall_silent, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/data.tar"
        with pytest.raises(DataError, match=r"timed out\); the same command resumes it"):
            fetch.download(
                url, tmp_path / "x", sha256="", progress=lambda done, total: progress.append(done)
            )
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert max(progress) == 9  # what came before was not lost
    assert (tmp_path / "x.part").stat().st_size == 9


def _fall_silent(listener):
    connections = []
    with suppress(OSError):
        while True:
            connections.append(listener.accept()[0])
            connections[-1].recv(65536)
            if len(connections) == 1:
                connections[0].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n123456789")
    for connection in connections:
        connection.close()


def test_the_command_line(server, packed, tmp_path, monkeypatch, capsys):
    archive = archive_of(server, packed)._replace(url="http://127.0.0.1:9/x", licence="CC TEST 1.0")
    monkeypatch.setitem(ARCHIVES, "mvtec", archive)
    monkeypatch.setenv("DFKDE_DATA", str(tmp_path))
    monkeypatch.setattr(
        "harness.data.__main__.dataset_settings",
        lambda name: replace(dataset_settings(name), categories=["bottle"]),
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
