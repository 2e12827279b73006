"""The command line of the report: see `python -m harness.report --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.record import StoredRun
from harness.report.compare import compare, compare_published, other_methods, rank
from harness.report.declaration import ReportError, Table, read_table, read_tables, reading
from harness.report.formats import build_page, latex
from harness.report.layout import caption, grid_of
from harness.report.publish import check, publish
from harness.report.query import render, search
from harness.report.readme import PAGES, fill_shown
from harness.report.results import TableResults, read_published, read_results
from harness.report.selection import Read
from harness.system.files import write_atomically
from harness.system.terminal import say

MEND = "python -m harness.report"
"""The command that makes results and pages agree again."""
_EXAMPLES = """\
examples:
  python -m harness.report                       write results/, README and docs/results.md
  python -m harness.report --check               fail when they disagree
  python -m harness.report --replace TABLE       drop its published rows, show the new runs alone
  python -m harness.report compare published     published numbers beside ours
  python -m harness.report compare TABLE TABLE   two models or backbones, on the same images;
                                                 of more, mean ranks over their categories
  python -m harness.report latex TABLE           a table for a paper
  python -m harness.report html                  everything as one page, runs/report.html, with the
                                                 pictures of `python -m harness.gallery`
"""
_KEYS = (
    "Keys of rows and columns: category, dataset, model, backbone, seed, any setting as runs record"
    " it (n_train, image_size, model.n_components), official, data_fingerprint, run, metric,"
    " defect_type; several with commas."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the report's command line and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _check(options.root) if options.check else int(options.run(options))
    except (ReportError, OSError) as error:
        say(f"error: {error}", error=True)
    except RuntimeError as error:
        from harness.tracking import StoreError

        if not isinstance(error, StoreError):
            raise
        say(f"error: {error}", error=True)
    if options.check:
        say(f"to fix it: {MEND}", error=True)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="Tables, comparisons and pages from the tracked runs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_publish)
    add = parser.add_argument
    add("--root", type=Path, default=Path(), help="the checkout (default: .)")
    add("--uri", help="the MLflow tracking URI (default: this checkout's store)")
    add("--only", nargs="+", default=[], metavar="TABLE", help="publish only these tables")
    add("--check", action="store_true", help="write nothing; fail when pages and results/ disagree")
    of_runs = "publish only these tables, from the store's runs alone: no published row is kept"
    add("--replace", nargs="+", default=[], metavar="TABLE", help=of_runs)
    add("--remove-missing", action="store_true", help="drop rows whose runs the store has not")
    commands = parser.add_subparsers(metavar="COMMAND")

    command = commands.add_parser("compare", help="compare with published numbers, or tables")
    command.set_defaults(run=_compare)
    several = "`published`, or two tables for differences, or more for mean ranks"
    command.add_argument("tables", nargs="+", metavar="TABLE", help=several)
    methods = "with `published`: the numbers of other methods, and none of ours"
    command.add_argument("--methods", action="store_true", help=methods)

    command = commands.add_parser("latex", help="print tables as LaTeX (booktabs)")
    command.set_defaults(run=_latex)
    command.add_argument("tables", nargs="+", metavar="TABLE")

    command = commands.add_parser("html", help="write the report as one self-contained page")
    command.set_defaults(run=_html)
    command.add_argument("--output", type=Path, default=Path("runs/report.html"))
    gallery = "what `python -m harness.gallery` wrote (default: %(default)s)"
    command.add_argument("--pictures", type=Path, default=Path("runs/gallery"), help=gallery)

    any_runs = "print a table of any runs, unofficial ones marked"
    command = commands.add_parser("show", help=any_runs, epilog=_KEYS)
    command.set_defaults(run=_show)
    shown = (
        "rows=category columns=model metric=image_auroc format=markdown|csv|html|latex, and"
        " what runs must have: dataset=mvtec model=dfkde,knn n_train=null"
    )
    command.add_argument("arguments", nargs="*", metavar="KEY=VALUE", help=shown)
    fill = "put the tables at a page's markers: <!-- show: KEY=VALUE ... --> ... <!-- /show -->"
    command.add_argument("--fill", type=Path, metavar="PAGE", help=fill)
    command.add_argument("--uri", default=argparse.SUPPRESS, help="the MLflow tracking URI")
    return parser


def _check(root: Path) -> int:
    if difference := check(root):
        _print(difference)
        say(f"{' or '.join(PAGES)} and results/ disagree; to fix it: {MEND}", error=True)
    return int(bool(difference))


def _store(options: argparse.Namespace) -> tuple[list[StoredRun], Read]:
    """Read every run of the store, and return what reads their scores."""
    from harness.tracking import outdated, read_record, read_runs

    left_out, runs = outdated(options.uri), list(read_runs(options.uri))
    say(*filter(None, [left_out]), error=True)
    return runs, lambda run: read_record(run, options.uri)


def _publish(options: argparse.Namespace) -> int:
    runs, read = _store(options)
    known, missing = {run.run_id for run in runs}, options.remove_missing
    try:
        notes, refusals = publish(
            options.root,
            runs,
            only=[*options.only, *options.replace],
            drop=lambda name, row: name in options.replace or (missing and row.run_id not in known),
            read=read,
        )
    except OSError as error:
        raise ReportError(f"{error}; nothing has been changed") from None
    say(*notes, *(f"error: {refusal}" for refusal in refusals), error=True)
    written = [options.root / name for name in ("results", *PAGES)]
    say(f"wrote {', '.join(str(path) for path in written if path.exists())}")
    return 1 if refusals else 0


def _compare(options: argparse.Namespace) -> int:
    if options.tables == ["published"]:
        tables, held = _every_table(options.root)
        sources = read_published(options.root / "results")
        if options.methods:
            _print(other_methods(tables, sources))
        else:
            _print(compare_published(tables, held, sources))
        return 0
    if options.methods:
        raise ReportError("--methods goes with `compare published` alone")
    if len(options.tables) < 2:
        raise ReportError("compare takes `published` or at least two tables, got 1")
    chosen = [held_table(options.root, name) for name in options.tables]
    _print(compare(*chosen) if len(chosen) == 2 else rank(chosen))
    return 0


def _latex(options: argparse.Namespace) -> int:
    for name in options.tables:
        table, results = held_table(options.root, name)
        _print(latex(name, grid_of(table, results), caption(table, results.rows)) + "\n")
    return 0


def _html(options: argparse.Namespace) -> int:
    tables, held = _every_table(options.root)
    page = build_page(tables, held, pictures=options.pictures)
    write_atomically(options.output, page.encode())
    say(f"wrote {options.output}, {len(page.encode()) / 1e6:.1f} MB")
    return 0


def _show(options: argparse.Namespace) -> int:
    runs, read = _store(options)

    def table(arguments: Sequence[str]) -> str:
        found = search(arguments, runs, read=read)
        say(*found.notes, error=True)
        return render(found, arguments)

    if options.fill is None:
        _print(table(options.arguments))
        return 0
    if options.arguments:
        raise ReportError(f"--fill takes its KEY=VALUE from {options.fill} alone")
    with reading(options.fill) as file:
        page = file.read()
    write_atomically(options.fill, fill_shown(str(options.fill), page, table).encode())
    say(f"wrote {options.fill}")
    return 0


def _print(text: str) -> None:
    """Print a text whose lines are our own."""
    say(*text.removesuffix("\n").split("\n"))


def _every_table(root: Path) -> tuple[Mapping[str, Table], dict[str, TableResults]]:
    """Read the declared tables and what `results/` holds; name those that are left out of it."""
    tables, results = read_tables(root / "conf"), root / "results"
    for name, reason in tables.refused.items():
        if (results / f"{name}.csv").exists():
            say(f"left out: {reason}", error=True)
    return tables, {name: read_results(results, name) for name in tables}


def held_table(root: Path, name: str) -> tuple[Table, TableResults]:
    """Read one declared table and what `results/` holds of it."""
    return read_table(root / "conf", name), read_results(root / "results", name)


if __name__ == "__main__":
    sys.exit(main())
