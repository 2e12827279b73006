"""The command line of the report: see `python -m harness.report --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.report.publish import MEND, check, publish
from harness.report.table import ReportError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the report's command line and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _check(options.root) if options.check else _publish(options)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        if options.check:
            print(f"to mend it: {MEND}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="Write results/ and the README's tables from the tracked runs.",
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout (default: .)")
    parser.add_argument("--uri", help="the MLflow tracking URI (default: this checkout's store)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TABLE", help="make only these tables anew"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when README and results disagree"
    )
    return parser


def _check(root: Path) -> int:
    difference = check(root)
    if not difference:
        return 0
    print(difference, end="")
    print(f"README.md and results/ disagree; to mend it: {MEND}", file=sys.stderr)
    return 1


def _publish(options: argparse.Namespace) -> int:
    from harness.tracking import read_runs

    for note in publish(options.root, read_runs(options.uri), options.only):
        print(note, file=sys.stderr)
    print(f"wrote {options.root / 'results'} and {options.root / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
