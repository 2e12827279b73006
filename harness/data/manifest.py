"""What a fetched dataset held when it came out of its verified archive.

`fetch` writes one file per top folder, `<root>/.dfkde/archive/<folder>.json`, with the digest of
every file below it. Data that were put in place by hand have none.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from harness.data.errors import DataError
from harness.data.inspection import Inspection
from harness.data.listing import Problem


def write_manifest(root: Path, digests: Mapping[str, str]) -> None:
    """Keep the digests of the files of a dataset, by name relative to its root."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for name, digest in digests.items():
        folder, below, _ = name.partition("/")
        if below:
            folders[folder][name] = digest
    for folder, files in folders.items():
        place = _place(root, folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(files, indent=0), encoding="utf-8")


def changed_files(root: Path, category: str, *, seen: Mapping[str, Inspection]) -> list[Problem]:
    """Name the files that are not as they came out of the archive; these are not fatal.

    Raises
    ------
    DataError
        If the list of what came out is itself broken.
    """
    place = _place(root, category)
    if not place.exists():
        return []
    try:
        digests = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"'{place}' cannot be read ({error})") from error
    return [
        Problem(name, "is not as it came out of the published archive", fatal=False)
        for name, inspection in seen.items()
        if name.startswith(f"{category}/") and digests.get(name) != inspection.digest
    ]


def _place(root: Path, folder: str) -> Path:
    return root / ".dfkde" / "archive" / f"{folder}.json"
