"""Who holds a lock, and what a free one says: the kernel knows, whatever clocks and /proc say."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.system import locks
from harness.system.locks import JobLocks, _known_to_one_machine, hold

NAME = "f" * 64
HOLD = """
import sys, time
from pathlib import Path
from harness.system.locks import JobLocks
with JobLocks(Path(sys.argv[1])).hold(sys.argv[2]) as holder:
    print(holder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path), NAME]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "None\n"
        yield process
        process.kill()


def test_a_lock_keeps_others_out_until_its_process_is_killed(tmp_path, other, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)
    here = JobLocks(tmp_path)
    assert here.is_held(NAME) is True
    with here.hold(NAME) as holder:
        assert holder == f"process {other.pid} of {os.uname().nodename}"
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert here.is_held(NAME) is False
    with here.hold(NAME) as holder:
        assert holder is None
        assert JobLocks(tmp_path).is_held(NAME) is True


def test_a_lock_keeps_other_threads_out(tmp_path):
    held = []
    with hold(tmp_path / "lock"):
        thread = threading.Thread(
            target=lambda: held.append(hold(tmp_path / "lock", patience=0).__enter__())
        )
        thread.start()
        thread.join()
    assert held == [False]


def test_who_is_patient_gets_a_lock_that_is_freed_meanwhile(tmp_path):
    taken, free = threading.Event(), threading.Event()

    def keep():
        with hold(tmp_path / "lock"):
            taken.set()
            free.wait()

    thread = threading.Thread(target=keep)
    thread.start()
    taken.wait()
    threading.Timer(0.1, free.set).start()
    with hold(tmp_path / "lock", patience=30) as held:
        assert held
    thread.join()


def test_a_job_that_slurm_starts_again_waits_longer(tmp_path, other, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)
    monkeypatch.setattr(locks, "_PATIENCE_REQUEUED", 60.0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    threading.Timer(0.2, other.kill).start()
    with JobLocks(tmp_path).hold(NAME) as holder:
        assert holder is None


def test_lock_files_stay(tmp_path):
    with JobLocks(tmp_path).hold(NAME):
        pass
    assert (tmp_path / NAME).is_file()


def test_the_same_folder_has_one_id_and_a_copy_another(tmp_path):
    folder = tmp_path / "locks"
    ids = {JobLocks(folder).id, JobLocks(folder).id}
    assert len(ids) == 1
    folder.rename(tmp_path / "moved")
    assert JobLocks(tmp_path / "moved").id in ids
    shutil.copytree(tmp_path / "moved", folder)
    assert JobLocks(folder).id not in ids | {""}


def test_what_is_unknown(tmp_path):
    assert JobLocks(None).id == ""
    with JobLocks(None).hold(NAME) as holder:
        assert holder is None
    assert JobLocks(None).is_held(NAME) is None
    assert JobLocks(tmp_path).is_held(NAME) is None  # nobody held it, or somebody removed it


@pytest.mark.parametrize("content", [b"", b"\xff" * 32, b"x" * 32, b"0" * 31])
def test_an_id_that_is_none_means_nothing(tmp_path, content):
    assert JobLocks(tmp_path).id
    (tmp_path / "id").write_bytes(content)
    assert JobLocks(tmp_path).id == ""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_where_there_are_no_locks_jobs_run_and_nobody_is_judged(tmp_path, monkeypatch, number):
    assert JobLocks(tmp_path).id
    with JobLocks(tmp_path).hold(NAME):
        pass

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr(locks, "_warned", set())
    here = JobLocks(tmp_path)
    with pytest.warns(UserWarning, match="has no locks"):
        assert here.id == ""
    with here.hold(NAME) as holder:
        assert holder is None
    assert here.is_held(NAME) is None


def test_locks_that_keep_nobody_out_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    assert JobLocks(tmp_path).id == ""


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_warned", set())
    tmp_path.chmod(0o500)
    with pytest.warns(UserWarning, match=r"cannot hold locks \(Permission denied\)"):
        assert JobLocks(tmp_path / "locks").id == ""


def test_a_folder_in_place_of_which_is_a_file_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_warned", set())
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"cannot hold locks \(Not a directory\)"):
        assert JobLocks(tmp_path / "file" / "locks").id == ""


def test_a_job_whose_lock_cannot_be_held_runs_and_is_not_judged(tmp_path, monkeypatch):
    """As in a folder of another user, where no file can be made."""
    monkeypatch.setattr(locks, "_warned", set())
    here = JobLocks(tmp_path / "locks")
    assert here.id
    (tmp_path / "locks" / NAME).symlink_to(tmp_path / "target")
    with pytest.warns(UserWarning, match="cannot hold locks"), here.hold(NAME) as holder:
        assert (holder, here.id, here.is_held(NAME)) == (None, "", None)
    assert not (tmp_path / "target").exists()


def test_a_forked_process_that_lives_on_keeps_no_lock(tmp_path):
    ready, done = os.pipe()
    with hold(tmp_path / "lock"):
        child = os.fork()
        if child == 0:
            os.write(done, b".")
            signal.pause()
        os.read(ready, 1)
    os.close(ready)
    os.close(done)
    with hold(tmp_path / "lock", patience=0) as held:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert held


@pytest.mark.parametrize(
    ("line", "local"),
    [
        ("server:/x {} nfs4 rw,relatime,vers=4.2,local_lock=none 0 0", False),
        ("server:/x {} nfs rw,vers=3,local_lock=all 0 0", True),
        ("server:/x {} nfs rw,vers=3,nolock,local_lock=none 0 0", True),
        ("10.0.0.1@o2ib:/x {} lustre rw,flock 0 0", False),
        ("10.0.0.1@o2ib:/x {} lustre rw,localflock 0 0", True),
        ("me@host:/x {} fuse.sshfs rw,user_id=0 0 0", True),
        ("beegfs_nodev {} beegfs rw,relatime,cfgFile=/etc/beegfs/client.conf 0 0", True),
        ("//server/x {} cifs rw,vers=3.1.1,nobrl 0 0", True),
        ("//server/x {} cifs rw,vers=3.1.1 0 0", False),
        ("/dev/sda1 {} ext4 rw 0 0", False),
    ],
)
def test_mounts_that_share_files_but_no_locks(tmp_path, line, local):
    folder = tmp_path / "a b\\c" / "runs"
    folder.mkdir(parents=True)
    mounts = tmp_path / "mounts"
    place = str(folder.parent).replace("\\", r"\134").replace(" ", r"\040")
    elsewhere = "me@host:/y / fuse.sshfs rw 0 0"
    older = f"me@host:/z {place} fuse.sshfs rw 0 0"  # another is mounted over it
    mounts.write_text("\n".join([elsewhere, older, line.format(place), ""]))
    assert _known_to_one_machine(folder, mounts) == local
    assert not _known_to_one_machine(folder, Path(tmp_path, "none"))


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_makes_no_file_behind_a_link_and_waits_for_no_pipe(tmp_path, kind):
    path = tmp_path / "lock"
    if kind == "pipe":
        os.mkfifo(path)
        with hold(path) as held:
            assert held
        return
    path.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"), hold(path):
        pass
    assert not (tmp_path / "target").exists()
