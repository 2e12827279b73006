"""The view of an experiment's runs in MLflow's UI that shows what a table of the README shows."""

from __future__ import annotations

import json
from typing import Any

from harness.metrics.registry import HEADLINE

_KEY = "tables"
_NAME = "Metrics of the tables"
TAG = f"mlflow.sharedViewState.{_KEY}"
"""The experiment's tag under which the UI finds the view."""

_METRIC = 105
# The UI's own columns, named as it names them: check box, name and time come first in any case.
_FIRST = {"1": 70, "attributes.`Run Name`": 120, "runDateAndNestInfo": 135}
_SHOWN = {"display": True, "deleted": False, "isGenerated": False, "isReordered": True}
_CHART = {"metricSectionId": _KEY, "runsCountToCompare": 20} | _SHOWN


def view() -> str:
    """Return the view as the UI reads it: the cell's names, four metrics, sorted by category.

    Since MLflow 3.15 a view is an object of `name`, `createdAt` (milliseconds) and `state`, a text;
    the menu *Views* lists those alone. Before, it was the state itself, of which the UI takes the
    keys that it knows. This is both, in fewer than the 5,000 characters that a tag may then have.
    """
    tags = {"category": 90, "model": 115, "backbone": 130, "seed": 58}
    widths = {f"tags.`{name}`": width for name, width in tags.items()}
    widths |= {f"metrics.`{name}`": _METRIC for name in HEADLINE}
    widths |= {"tags.`swept`": 150, "tags.`official`": 75}
    widths |= {"attributes.`Dataset`": 250, "tags.`job`": 90}
    state = {
        "selectedColumns": list(widths),
        "columnOrder": [*_FIRST, *widths],
        "columnWidths": _FIRST | widths,
        "orderByKey": "tags.`category`",
        "orderByAsc": True,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsHiddenMode": "FIRST_10_RUNS",
        "compareRunSections": [{"uuid": _KEY, "name": _NAME} | _SHOWN],
        "compareRunCharts": [
            {"type": "BAR", "metricKey": name, "dataAccessKey": name, "uuid": name} | _CHART
            for name in HEADLINE
        ],
        "isAccordionReordered": True,
    }
    return _text({"name": _NAME, "createdAt": 0, "state": _text(state)} | state)


def link(server: str, experiment: str) -> str:
    """Return where the UI shows an experiment in that view."""
    # Without the first, the UI's menu is that for language models.
    choice = f"workflowType=machine_learning&viewStateShareKey={_KEY}"
    return f"{server}/#/experiments/{experiment}/runs?{choice}"


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
