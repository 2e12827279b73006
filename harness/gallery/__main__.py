"""The command line of the gallery: see `python -m harness.gallery --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.gallery.draw import draw_gallery
from harness.record import ImageScore
from harness.report.results import read_or_empty
from harness.report.scores import backed_scores
from harness.report.table import ReportError, read_tables
from harness.system.terminal import say
from harness.tracking import StoreError, read_job


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 if a category could not be drawn."""
    options = _parser().parse_args(arguments)
    try:
        return 1 if _draw_tables(options) else 0
    except (ReportError, StoreError) as error:
        say(f"error: {error}", error=True)
        return 1


def _draw_tables(options: argparse.Namespace) -> int:
    """Draw the categories of all tables that are asked for; return how many could not be drawn."""
    failed = 0
    tables = {n: t for n, t in read_tables(options.root / "conf").items() if t.headline}
    unknown = sorted(set(options.tables) - set(tables))
    if unknown:
        raise ReportError(f"no table {', '.join(unknown)} to draw; there are {', '.join(tables)}")
    for name in options.tables or tables:
        results = read_or_empty(options.root / "results", name)
        scores = backed_scores(name, results.rows, results.scores)
        for row in results.rows:
            if row.finished:
                folder = options.output / name / row.category
                failed += not _draw(
                    row.run_id, scores[row.category], folder=folder, options=options
                )
    return failed


def _draw(
    run_id: str, scores: Sequence[ImageScore], *, folder: Path, options: argparse.Namespace
) -> bool:
    try:
        job = read_job(run_id, options.uri, trusted=options.trusted)
        shown = draw_gallery(job, scores, folder)
    except (ValueError, OSError) as error:
        say(f"error: {error}", error=True)
        return False
    say(f"{job}: {shown} images in {folder}")
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
    parser.add_argument(
        "--trusted",
        nargs="+",
        default=[],
        metavar="NAME",
        help="models and backbones, as module:name, that a run may use beside this project's own",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
