"""Whether the code differs from its commit."""

from __future__ import annotations

import subprocess

import pytest

from harness import provenance

IDENTITY = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
FILES = ("dfkde/density.py", "harness/run.py", "conf/config.yaml", "pyproject.toml", "README.md")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout of a few files, which the running code is said to lie in."""
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("one\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, *IDENTITY, "commit", "-q", "-m", "All there is")
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    yield tmp_path
    provenance.commit.cache_clear()


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit():
    """The state of the code as a new process finds it."""
    provenance.commit.cache_clear()
    return provenance.commit()


def test_code_as_committed_is_clean(checkout):
    assert commit() == (git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize(
    ("name", "dirty"),
    [(name, name != "README.md") for name in FILES] + [("dfkde/new.py", True), ("new.md", False)],
)
def test_edited_code_is_dirty_and_an_edited_text_is_not(checkout, name, dirty):
    (checkout / name).write_text("two\n")
    assert commit().dirty is dirty
    assert commit().sha == git(checkout, "rev-parse", "HEAD")


def test_code_outside_a_checkout_of_its_own_has_no_commit(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "_ROOT", checkout / "dfkde")
    assert commit() == ("unknown", False)
