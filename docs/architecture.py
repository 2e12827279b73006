"""Draw the packages and what they import, read from the source: `python docs/architecture.py`.

A box is a package or a top-level module of `harness`, is `dfkde` or the Hydra plugins, and stands
above all that it imports. An arrow that follows from others is left out. Imports for types alone
do not count. Fails where two boxes import each other.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("harness", "dfkde", "hydra_plugins")
COLOURS = {"dfkde": "#fde9d0", "hydra_plugins": "#eeeeee"}
WIDTH, HEIGHT = 1.5, 0.5


def box_of(module: str) -> str:
    """Return the box that a module lies in: `harness.data.load` lies in `data`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "harness" else parts[0]


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of this project that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    branches = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    typing = [b for b in branches if ast.unparse(b.test) == "TYPE_CHECKING"]
    skipped = {node for branch in typing for node in ast.walk(branch)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node not in skipped:
            names = [f"harness.{alias.name}" for alias in node.names]
            yield from names if node.module == "harness" else [node.module]


def graph() -> tuple[dict[str, set[str]], dict[str, int]]:
    """Return what each box imports, and how many lines it has."""
    arrows: dict[str, set[str]] = defaultdict(set)
    lines: dict[str, int] = defaultdict(int)
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts == ("harness", "__init__"):
            continue
        box = box_of(".".join(parts))
        lines[box] += len(path.read_text(encoding="utf-8").splitlines())
        others = {box_of(name) for name in imported(path) if name.split(".")[0] in PACKAGES}
        arrows[box] |= others - {box}
    return arrows, lines


def layers(arrows: dict[str, set[str]]) -> dict[str, int]:
    """Return the layer of each box: one above the highest that it imports."""
    layer: dict[str, int] = {}
    for box in TopologicalSorter(arrows).static_order():
        layer[box] = 1 + max((layer[other] for other in arrows[box]), default=-1)
    return layer


def reaches(arrows: dict[str, set[str]], start: str, end: str) -> bool:
    """Return whether a box imports another through at least one more."""
    return any(
        end in arrows[other] or reaches(arrows, other, end) for other in arrows[start] - {end}
    )


def main() -> None:
    """Write `docs/architecture.svg`."""
    arrows, lines = graph()
    layer = layers(arrows)
    rows = [sorted(b for b in layer if layer[b] == k) for k in range(max(layer.values()) + 1)]
    place = {b: (k - (len(row) - 1) / 2, layer[b]) for row in rows for k, b in enumerate(row)}
    plt.rcParams["svg.hashsalt"] = "architecture"
    figure, axes = plt.subplots(figsize=(9, 9))
    for box, (x, y) in place.items():
        at = (2 * x, y)
        style = {"boxstyle": "round,pad=0.5", "fc": COLOURS.get(box, "#dcebf7"), "ec": "#555555"}
        axes.text(*at, f"{box}\n{lines[box]:,} lines", ha="center", va="center", bbox=style)
        for other in sorted(arrows[box]):
            if not reaches(arrows, box, other):
                end = (2 * place[other][0], place[other][1] + 0.22)
                arrow = {"arrowstyle": "->", "color": "#777777"}
                axes.annotate("", end, (at[0], y - 0.22), arrowprops=arrow, zorder=1)
    half = max(len(row) for row in rows)
    axes.set(xlim=(-half - 0.2, half + 0.2), ylim=(-0.5, len(rows) - 0.5))
    axes.axis("off")
    figure.savefig(ROOT / "docs/architecture.svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
