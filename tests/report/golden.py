"""Everything the mini sweep gives, as committed in `golden/`; `python -m tests.report.golden`
writes it again from the code as it is: read the diff before committing it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from harness.report.declaration import read_tables
from harness.report.formats import latex
from harness.report.layout import caption, grid_of
from harness.report.publish import publish
from harness.report.readme import PAGES
from harness.report.results import read_results
from tests.report.synthetic import sweep

FOLDER = Path(__file__).parent / "golden"
_CHECKOUT = Path(__file__).parent / "checkout"


def outputs(checkout: Path) -> dict[str, str]:
    """Publish the mini sweep into a synthetic checkout; return every file, and the LaTeX."""
    publish(checkout, sweep())
    files = [*map(checkout.joinpath, PAGES), *(checkout / "results").rglob("*.*")]
    texts = {str(path.relative_to(checkout)): path.read_bytes().decode() for path in files}
    for name, table in read_tables(checkout / "conf").items():
        held = read_results(checkout / "results", name)
        texts[f"{name}.tex"] = latex(name, grid_of(table, held), caption(table, held.rows))
    return texts


def main(folder: Path) -> None:
    """Write the outputs into a folder."""
    with tempfile.TemporaryDirectory() as temporary:
        texts = outputs(Path(shutil.copytree(_CHECKOUT, Path(temporary) / "checkout")))
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
