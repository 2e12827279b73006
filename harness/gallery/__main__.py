"""The command line of the gallery: see `python -m harness.gallery --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.config import Job
from harness.data import DataError
from harness.gallery.draw import draw_gallery
from harness.record import ImageScore
from harness.report.results import read_or_empty
from harness.report.table import read_tables
from harness.tracking import read_job


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 if a category could not be drawn."""
    options = _parser().parse_args(arguments)
    failed = 0
    for name, table in read_tables(options.root / "conf").items():
        if table.headline and (not options.tables or name in options.tables):
            results = read_or_empty(options.root / "results", name)
            for row in results.rows:
                if row.finished:
                    job, scores = read_job(row.run_id, options.uri), results.scores[row.category]
                    failed += not _draw(job, scores, options.output / name / row.category)
    return 1 if failed else 0


def _draw(job: Job, scores: Sequence[ImageScore], folder: Path) -> bool:
    try:
        shown = draw_gallery(job, scores, folder)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print(f"{job}: {shown} images in {folder}")
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.gallery",
        description="Draw the pictures of the tables' runs, for the HTML report.",
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="which tables (default: all)")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout (default: .)")
    parser.add_argument("--uri", help="the MLflow tracking URI (default: this checkout's store)")
    parser.add_argument("--output", type=Path, default=Path("runs/gallery"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
