"""Which runs of a store matter to a job: those of the same job, and those that are open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.code import CHANGED
from harness.tracking.names import CODE, ERROR_CLASS, ERROR_MESSAGE, IDENTITY
from harness.tracking.owner import HOST
from harness.tracking.store import connect, experiment_id

_CELL = ("official", "model", "backbone", CODE)
_PAGE = 1000


def same_job(uri: str, experiment: str, *, tags: Mapping[str, str]) -> list[Any]:
    """Return the runs that may stand for a job with these tags, the newest first.

    An equal identity means equal numbers from equal code; under another name, a table would not
    accept them.
    """
    found = connect(uri).search_runs(
        [experiment_id(uri, name=experiment)],
        f"tags.{IDENTITY} = '{tags[IDENTITY]}'",
        max_results=_PAGE,
        order_by=["attributes.start_time DESC"],
    )
    return [run for run in found if same_cell(run.data.tags, tags)]


def same_cell(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Tell whether the tags name one cell of a table, are equally official and of the same code."""
    return one.get(CODE) != CHANGED and all(one.get(name) == other.get(name) for name in _CELL)


def open_runs(uri: str) -> list[Any]:
    """Return the runs of this harness that are open."""
    client = connect(uri)
    experiments = [e.experiment_id for e in client.search_experiments(max_results=_PAGE)]
    found = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=_PAGE)
    return [run for run in found if HOST in run.data.tags]


def close_dead(uri: str, run_id: str, message: str) -> None:
    """Close the run of a process that died as KILLED, unless it has been closed meanwhile."""
    client = connect(uri)
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_tag(run_id, ERROR_CLASS, "ProcessDied")
        client.set_tag(run_id, ERROR_MESSAGE, message)
        client.set_terminated(run_id, "KILLED")
