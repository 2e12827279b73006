"""Saved detectors changed on purpose, with checksums that fit: no slip does that."""

import hashlib
import json
from pathlib import Path

from safetensors.numpy import load_file, save_file

STATE, ARRAYS = "detector.json", "detector.safetensors"


def rewrite(folder, change):
    """Let `change` edit a saved detector's description and arrays, and give it new checksums."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    arrays = load_file(folder / ARRAYS)
    change(state, arrays)
    save_file(arrays, folder / ARRAYS)
    state["arrays_sha256"] = hashlib.sha256((folder / ARRAYS).read_bytes()).hexdigest()
    write_state(folder, state)


def write_state(folder, state):
    """Write a description with its checksum."""
    state.pop("checksum", None)
    canonical = json.dumps(state, sort_keys=True, separators=(",", ":"))
    state["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def with_factory(factory, **arguments):
    """Return a change of the backbone."""

    def change(state, arrays):
        state["backbone"] |= {"factory": factory, "arguments": arguments}

    return change


def with_class(name):
    """Return a change of the model's class."""

    def change(state, arrays):
        state["model"]["class"] = name

    return change


def touching(marker: Path):
    """Return a change that lets the backbone leave a file, were it built."""
    return with_factory("os:system", command=f"touch {marker}")
