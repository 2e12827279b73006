"""The feature cache from the command line: list, verify, prune.

`python -m harness.features list`, `... verify`, `... prune --limit-gb 20`; `--cache` names another
folder than the configuration's default.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.config import FeaturesConfig
from harness.features.eviction import Section, damaged, prune, sections
from harness.system.terminal import say, shown

_COLUMNS = "{:12}  {:12}  {:>9}  {:34}  {:>7}  {:>7}  {:>9}  {}"
_COMPUTING = ("engine", "precision", "device", "resize")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    cache = Path(options.cache)
    if not cache.is_dir():
        say(f"--cache must be an existing folder, got {options.cache!r}", error=True)
        return 2
    if options.command == "list":
        return _list(cache)
    if options.command == "verify":
        return _verify(cache)
    return _prune(cache, limit=int(options.limit_gb * 1e9))


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


def _list(cache: Path) -> int:
    header = ("RECIPE", "WEIGHTS", "SIZE", "ENGINE", "POOLED", "MAPS", "MB", "LAST USED")
    say(_COLUMNS.format(*header))
    for section in sections(cache):
        say(_COLUMNS.format(*_row(section)))
    return 0


def _row(section: Section) -> tuple[object, ...]:
    recipe, entries = section.recipe, section.entries
    kinds = [entry.path.suffix for entry in entries]
    used = max((entry.used for entry in entries), default=0.0)
    return (
        section.key[:12],
        _text(recipe.get("weights_digest"))[:12],
        _pixels(recipe),
        _engine(recipe),
        kinds.count(".pooled"),
        kinds.count(".maps"),
        round(sum(entry.size for entry in entries) / 1e6),
        _time(used) if entries else "-",
    )


def _pixels(recipe: dict[str, Any]) -> str:
    """Write the size of the images, and that of the crop where there is one: `256>224`."""
    crop, shape = recipe.get("center_crop"), recipe.get("shape")
    side = shape[-1] if isinstance(shape, list) and shape else None
    size = _text(recipe.get("image_size") or side)
    return f"{size}>{_text(crop)}" if crop else size


def _engine(recipe: dict[str, Any]) -> str:
    """Write how features are computed; of a translated network, that it is one."""
    if "shape" in recipe:
        return "network in ONNX"
    return " ".join(_text(recipe.get(name)) for name in _COMPUTING)


def _text(value: object) -> str:
    """Write a value that a file holds in a few printable characters; `?` for what it cannot be."""
    if not isinstance(value, (str, int)):
        return "?"
    text = str(value) if isinstance(value, str) or abs(value) < 10**12 else "?"
    return shown(text[:40])


def _time(seconds: float) -> str:
    with suppress(ValueError, OverflowError, OSError):  # no year that can be written
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    return "?"


def _verify(cache: Path) -> int:
    bad = list(damaged(cache))
    for path in bad:
        say(f"damaged: {path}")
    n_entries = sum(len(section.entries) for section in sections(cache))
    say(f"{n_entries} entries, {len(bad)} damaged")
    return 1 if bad else 0


def _prune(cache: Path, *, limit: int) -> int:
    n_removed = prune(cache, limit=limit)
    say(f"{n_removed} entries removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
