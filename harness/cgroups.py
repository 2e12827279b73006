"""The control groups that this process is in, which may allow it less than the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's groups, innermost first; none where there are no groups.

    Parameters
    ----------
    root : Path
        Where `proc` and `sys` are mounted.
    controller : str
        `cpu` or `memory`. The groups of version 2 and, where it is in one, of version 1 are
        yielded; their files differ in name.
    """
    mounted = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":
                yield from _up(mounted, group)
            elif controller in controllers.split(","):
                yield from _up(mounted / controller, group)


def _up(mounted: Path, group: str) -> Iterator[Path]:
    # A container may see no more than its own group, as the mounted folder.
    place = mounted / group.lstrip("/")
    yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(mounted))
