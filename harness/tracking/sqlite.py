"""Read all runs of an SQLite store at once, from MLflow's tables.

Its client makes an object of every tag, parameter and metric, and takes a millisecond for each run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_RUNS = """
    SELECT run_uuid, status, start_time FROM runs JOIN experiments USING (experiment_id)
    WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'
    AND status IN ('FINISHED', 'FAILED') ORDER BY start_time DESC, run_uuid
"""
_VALUES = {
    "tags": "SELECT run_uuid, key, value FROM tags",
    "params": "SELECT run_uuid, key, value FROM params",
    "metrics": "SELECT run_uuid, key, iif(is_nan, 'nan', value) FROM latest_metrics",
}


def ended_runs(path: Path, *, wait: float) -> Iterator[SimpleNamespace]:
    """Yield the finished and the failed runs of a store, the newest first.

    Parameters
    ----------
    path : Path
        The file.
    wait : float
        Seconds to wait for a process that writes.

    Yields
    ------
    SimpleNamespace
        What of an `mlflow.entities.Run` tells its record: `info.run_id`, `info.status`,
        `info.start_time`, `data.tags`, `data.params` and `data.metrics`.
    """
    with closing(sqlite3.connect(path, timeout=wait, isolation_level=None)) as store:
        store.execute("BEGIN")  # all tables as they are at one moment
        runs = store.execute(_RUNS).fetchall()
        values: dict[str, dict[str, dict[str, Any]]]
        values = {run_id: {kind: {} for kind in _VALUES} for run_id, *_ in runs}
        for kind, query in _VALUES.items():
            for run_id, key, value in store.execute(query):
                if run_id in values:
                    values[run_id][kind][key] = float(value) if kind == "metrics" else value
    for run_id, status, start_time in runs:
        info = SimpleNamespace(run_id=run_id, status=status, start_time=start_time)
        yield SimpleNamespace(info=info, data=SimpleNamespace(**values[run_id]))
