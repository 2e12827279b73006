"""What the harness adds to a job: everything but the model and the metrics.

Run: `OMP_NUM_THREADS=1 python -m benchmarks.overhead [--jobs N] [--runs N] [--report]`. The first
part sweeps N seeds over one category of the size of MVTec AD's bottle, whose features are cached,
as users do: one command, SQLite, all artifacts. The second part (`--report`) fills a temporary store
with N runs that look like those of a table of the README, spread over its cells, and times
`python -m harness.report` on a temporary copy of README and declarations: synthetic numbers, which
are thrown away with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import machine, table
from harness.data.synthetic import Plan, write_synthetic
from harness.record import EXTRACTION
from harness.report.declaration import read_tables
from harness.report.results import read_rows
from harness.tracking import read_runs

ROOT = Path(__file__).resolve().parents[1]
OURS = ("model", "image metrics", "anomaly maps", "pixel metrics")
"""The stages of a job that are not overhead."""
TABLE = "mvtec_efficientnet_lite0"
"""The table that the runs of the second part fit; its network comes without a download."""
DATA = ("category=bottle", "dataset.official=false")
SETTINGS = (
    "backbone=custom",
    "backbone.factory=benchmarks.overhead:build",
    'backbone.layers=["2"]',
    "image_size=64",
    "features.engine=torch",
)


def build() -> nn.Module:
    """Return a small network: features of 64 channels on an 8 x 8 grid."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 64, 8, stride=8), nn.ReLU(), nn.Conv2d(64, 64, 1))


def main() -> None:
    """Print the tables."""
    options = _options()
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_synthetic(
            folder / "data" / "mvtec", "mvtec", categories=["bottle"], plan=Plan(1, 256)
        )
        if options.report:
            run(folder, f"experiment={TABLE}")
            fill(folder, options.runs)
            report(folder)
        else:
            run(folder, *SETTINGS, "seed=0")
            sweep(folder, options.jobs)


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--report", action="store_true", help="time the report instead")
    return parser.parse_args()


def run(folder: Path, *settings: str) -> float:
    """Run a sweep over bottle in the folder and return the seconds of the whole command."""
    command = [sys.executable, "-m", "harness.run", "-m", *DATA, *settings]
    return timed(command, folder)


def timed(command: Sequence[str], folder: Path) -> float:
    """Run a command and return its seconds."""
    environment = {"PYTHONPATH": str(ROOT), "DFKDE_DATA": str(folder / "data")}
    started = time.perf_counter()
    subprocess.run(
        command, cwd=folder, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def sweep(folder: Path, n_jobs: int) -> None:
    """Time a sweep over seeds, then the same command again, which skips every job."""
    wall = run(folder, *SETTINGS, f"seed=range(1,{n_jobs + 1})")
    skipped = run(folder, *SETTINGS, f"seed=range(1,{n_jobs + 1})")
    records = [stored.record for stored in read_runs(f"sqlite:///{folder}/runs/mlflow.db")]
    stages = {
        stage: sum(record.durations[stage] for record in records if record.seed) / n_jobs
        for stage in records[0].durations
        if stage != EXTRACTION
    }
    ours = sum(stages[stage] for stage in OURS)
    rest = wall / n_jobs - sum(stages.values())
    rows = [(name, f"{1000 * seconds:.1f}") for name, seconds in stages.items()]
    rows.append(("tracking, composing, start of the process", f"{1000 * rest:.1f}"))
    rows.append(("all", f"{1000 * wall / n_jobs:.1f}"))
    rows.append(("overhead: all but " + ", ".join(OURS), f"{1000 * (wall / n_jobs - ours):.1f}"))
    rows.append(("a job that is skipped", f"{1000 * skipped / n_jobs:.1f}"))
    table([f"mean of {n_jobs} jobs", "ms"], rows)


def fill(folder: Path, n_runs: int) -> None:
    """Multiply the one run of the store, in SQL: writing so many takes long."""
    names = read_tables(ROOT / "conf")[TABLE].categories
    with closing(sqlite3.connect(folder / "runs" / "mlflow.db")) as store, store:
        [[first]] = store.execute("SELECT run_uuid FROM runs")
        for name in ("runs", "metrics", "latest_metrics", "params", "tags"):
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({name})")]
            values = ", ".join("?1" if c == "run_uuid" else c for c in columns)
            copy = f"INSERT INTO {name} SELECT {values} FROM {name} WHERE run_uuid = ?2"
            store.executemany(copy, [(f"{k:032x}", first) for k in range(1, n_runs)])
        store.execute("UPDATE tags SET value = 'true' WHERE key = 'official'")
        move = "UPDATE tags SET value = ? WHERE key = 'category' AND run_uuid = ?"
        moved = [(names[k % len(names)], f"{k:032x}") for k in range(1, n_runs)]
        store.executemany(move, moved)


def report(folder: Path) -> None:
    """Time the report on the store, and check that the runs are in their table."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copy(ROOT / "README.md", folder / "README.md")
    seconds = timed([sys.executable, "-m", "harness.report"], folder)
    shown = len(read_rows(folder / "results" / f"{TABLE}.csv"))
    assert shown == len(read_tables(ROOT / "conf")[TABLE].categories), shown
    found = len(read_runs(f"sqlite:///{folder}/runs/mlflow.db"))
    label = f"over {found} runs, which fill the {shown} cells of a table"
    table(["report", "s"], [(label, f"{seconds:.1f}")])


if __name__ == "__main__":
    main()
