"""The view of an experiment's runs in MLflow's UI that shows what a table of the README shows."""

from __future__ import annotations

import json

from harness.metrics.registry import HEADLINE

_KEY = "tables"
TAG = f"mlflow.sharedViewState.{_KEY}"
"""The experiment's tag under which the UI finds the view."""

_TAGS = ("category", "model", "backbone", "seed", "job")


def view() -> str:
    """Return the view as the UI reads it: four metrics and the cell's names, by category."""
    columns = [*_columns("tags", _TAGS), *_columns("metrics", HEADLINE)]
    state = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "orderByKey": "tags.`category`",
        "orderByAsc": True,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsHiddenMode": "FIRST_10_RUNS",
    }
    return json.dumps(state)


def link(server: str, experiment: str) -> str:
    """Return where the UI shows an experiment in that view.

    Examples
    --------
    >>> link("http://127.0.0.1:5000", "3")
    'http://127.0.0.1:5000/#/experiments/3/runs?viewStateShareKey=tables'
    """
    return f"{server}/#/experiments/{experiment}/runs?viewStateShareKey={_KEY}"


def _columns(kind: str, names: tuple[str, ...]) -> list[str]:
    return [f"{kind}.`{name}`" for name in names]
