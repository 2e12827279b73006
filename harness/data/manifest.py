"""What a fetched dataset held when it came out of its verified archive.

`fetch` writes one file per top folder, `<root>/.dfkde/archive/<folder>.json`, with the digest of
every file below it. Data that were put in place by hand have none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from harness.atomic import DamagedError, read_json, write_json
from harness.data.errors import DataError
from harness.data.inspection import Inspection
from harness.data.listing import Problem, shown


def write_manifest(root: Path, digests: Mapping[str, str]) -> None:
    """Keep the digests of the files of a dataset, by name relative to its root."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for name, digest in digests.items():
        folder, below, _ = name.partition("/")
        if below:
            folders[folder][name] = digest
    for folder, files in folders.items():
        write_json(_place(root, folder), files, key=_key(folder))


def changed_files(root: Path, category: str, *, seen: Mapping[str, Inspection]) -> list[Problem]:
    """Name the files that are not as they came out of the archive; these are not fatal.

    Raises
    ------
    DataError
        If the list of what came out is itself broken.
    """
    place = _place(root, category)
    try:
        digests = read_json(place, key=_key(category))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except DamagedError as error:
        rule = "remove that file to go on without the comparison with the archive"
        rule += ", or remove the dataset and fetch it anew"
        raise DataError(f"'{shown(str(place))}' is damaged or has no checksum; {rule}") from error
    except OSError as error:
        raise DataError(f"'{shown(str(place))}' cannot be read ({error.strerror})") from error
    return [
        Problem(name, "is not as it came out of the published archive", fatal=False)
        for name, inspection in seen.items()
        if name.startswith(f"{category}/") and digests.get(name) != inspection.digest
    ]


def _key(folder: str) -> str:
    return f"files of the archive in {folder}"


def _place(root: Path, folder: str) -> Path:
    return root / ".dfkde" / "archive" / f"{folder}.json"
