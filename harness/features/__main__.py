"""The feature cache from the command line: list, verify, prune.

`python -m harness.features list`, `... verify`, `... prune --limit-gb 20`; `--cache` names another
folder than the configuration's default.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.config import FeaturesConfig
from harness.features.feature_cache import Section, damaged, prune, sections
from harness.system.terminal import say

_COLUMNS = "{:12}  {:12}  {:>9}  {:34}  {:>7}  {:>7}  {:>9}  {}"
_HEADINGS = ("KEY", "WEIGHTS", "SIZE", "ENGINE", "POOLED", "MAPS", "MB", "LAST USED")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    cache = Path(options.cache)
    if not cache.is_dir():
        say(f"--cache must be an existing folder, got {options.cache!r}", error=True)
        return 2
    if options.command == "list":
        say(_COLUMNS.format(*_HEADINGS))
        say(*(_COLUMNS.format(*_row(section)) for section in sections(cache)))
    elif options.command == "prune":
        say(f"{prune(cache, limit=int(options.limit_gb * 1e9))} entries removed")
    else:
        bad = list(damaged(cache))
        say(*(f"damaged: {path}" for path in bad))
        n_entries = sum(len(section.entries) for section in sections(cache))
        say(f"{n_entries} entries, {len(bad)} damaged")
        return 1 if bad else 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.features", description=__doc__)
    parser.add_argument("--cache", default=FeaturesConfig().cache, help="folder of the cache")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what is in the cache, by backbone and preprocessing")
    commands.add_parser("verify", help="read everything; status 1 if something is damaged")
    pruning = commands.add_parser("prune", help="remove what was not used for longest")
    pruning.add_argument(
        "--limit-gb", type=_size, required=True, help="size to keep, in 10^9 bytes"
    )
    return parser


def _size(text: str) -> float:
    size = float(text)
    if not 0 <= size < float("inf"):
        raise argparse.ArgumentTypeError(f"must be finite and at least 0, got {text}")
    return size


def _row(section: Section) -> tuple[object, ...]:
    """Describe a section; a field that is not known is `?`, as all are of a damaged description."""
    fields, entries = section.fields, section.entries
    kinds = [entry.path.suffix for entry in entries]
    size, crop = fields.get("image_size", "?"), fields.get("center_crop")
    names = ("engine", "precision", "device", "resize")
    return (
        section.key[:12],
        fields.get("weights_digest", "?")[:12],
        f"{size}>{crop}" if crop else size,
        " ".join(str(fields.get(name, "?")) for name in names),
        kinds.count(".pooled"),
        kinds.count(".maps"),
        round(sum(entry.size for entry in entries) / 1e6),
        _time(max(entry.used for entry in entries)) if entries else "-",
    )


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


if __name__ == "__main__":
    sys.exit(main())
