"""A run for each complete dataset of a sweep: the averages of its metrics over the categories."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.config import Job, TrackingConfig
from harness.provenance import CHANGED
from harness.sweep.outcome import Outcome, one_line
from harness.tracking import contents
from harness.tracking.contents import AVERAGE, CODE, COUNTS, SCHEMA, SECONDS, UNDEFINED, Known
from harness.tracking.outbox import Entry, Outbox, push
from harness.tracking.store import connect, experiment_id, store_uri

Lock = Callable[[Known], AbstractContextManager[object]]
"""Keeps other processes from what it is given; gives who is at it, or None."""

_CATEGORY = "Average"
# What the runs must share beside the job; a run tells what its job leaves to the machine.
_SHARED = (
    *("dataset", "model", "backbone", "seed", "model_factory", "backbone_factory"),
    *("official", "weights_digest", CODE, SCHEMA),
)


class NoAverageError(ValueError):
    """Runs of which no average is to be written, and why."""


def averages(
    config: TrackingConfig, ends: Iterable[tuple[Job, Outcome]], lock: Lock
) -> Iterator[str]:
    """Write a run for each dataset of which the sweep has every category, unless there is one.

    Parameters
    ----------
    config : TrackingConfig
        Where the runs are kept.
    ends : iterable of (Job, Outcome)
        The jobs of the sweep and what became of them.
    lock : callable
        Keeps other processes from writing the same average.

    Yields
    ------
    str
        Why one is not written, in a line: the runs differ, or are not in the store yet, or the
        store fails, which costs that run only.
    """
    for job, outcomes in _complete(ends):
        try:
            ids = _run_ids(outcomes)
            digest = sha256(json.dumps(sorted(ids)).encode()).hexdigest()
            with lock(Known(digest, official=False, code="")) as busy:
                if busy is None:
                    _keep(config, job, ids, digest=digest)
        except Exception as error:
            why = str(error) if isinstance(error, NoAverageError) else one_line(error)
            yield f"{job}: not written: {why}"


def _complete(
    ends: Iterable[tuple[Job, Outcome]],
) -> Iterator[tuple[Job, list[Outcome]]]:
    """Yield each group of finished jobs that differ in the category only and leave out none.

    Where a dataset has one category, its run is the average.
    """
    groups: dict[str, tuple[Job, dict[str, Outcome]]] = {}
    for job, outcome in ends:
        average = replace(job, category=_CATEGORY)
        _, found = groups.setdefault(repr(average), (average, {}))
        if outcome.status in ("finished", "skipped"):
            found[job.category] = outcome
    for average, found in groups.values():
        declared = average.dataset.categories
        if len(declared) > 1 and set(declared) == found.keys():
            yield average, [found[category] for category in declared]


def _run_ids(outcomes: Sequence[Outcome]) -> list[str]:
    ids = [outcome.run_id for outcome in outcomes if outcome.run_id is not None]
    _check_kept(len(outcomes) - len(ids))
    return ids


def _check_kept(waiting: int) -> None:
    if waiting:
        rule = "the same command writes it once they are"
        raise NoAverageError(f"{waiting} of its runs are not in the store yet; {rule}")


def _keep(config: TrackingConfig, job: Job, ids: Sequence[str], *, digest: str) -> None:
    uri = store_uri(config.uri)
    experiment = config.prefix + job.dataset.name
    outbox, client = Outbox(uri), connect(uri)
    kept = client.search_runs(
        [experiment_id(uri, name=experiment)], f"tags.{AVERAGE} = '{digest}'", max_results=1
    )
    waiting = (entry.job_tags.get(AVERAGE) for entry in outbox.find(""))
    if not kept and digest not in waiting:
        runs = [client.get_run(run_id) for run_id in ids]
        entry = average_of(runs, job, experiment=experiment, digest=digest)
        push(outbox.add(entry, _nothing), uri)


def average_of(runs: Sequence[Any], job: Job, *, experiment: str, digest: str) -> Entry:
    """Return the run of averages over some runs.

    Parameters
    ----------
    runs : sequence of mlflow.entities.Run
        One of each category, in the dataset's order.
    job : Job
        The job that they share, its category apart.
    experiment : str
        Where it goes.
    digest : str
        Of the runs' ids.

    Raises
    ------
    NoAverageError
        If the runs are not all finished, or not by the same code on the same settings.
    """
    _check_kept(sum(run.info.status != "FINISHED" for run in runs))
    tags, settings = [run.data.tags for run in runs], [_settings(run) for run in runs]
    _check_same([{name: own.get(name, "") for name in _SHARED} for own in tags], "tags")
    _check_same(settings, "settings")
    if tags[0].get(CODE) == CHANGED:
        raise NoAverageError("the code was edited while its runs computed")
    means, undefined = _averaged(runs, job.dataset.categories)
    now = round(time.time() * 1000)
    return Entry(
        experiment=experiment,
        name=contents.run_name(job),
        run_id=None,
        status="FINISHED",
        started=now,
        ended=now,
        job_tags=contents.average_tags(job, runs) | {AVERAGE: digest},
        tags=undefined,
        params=settings[0],
        metrics=means,
    )


def _averaged(
    runs: Sequence[Any], categories: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the means by metric, and tags that say which metric has none because of whom."""
    means, undefined = {}, {}
    for metric in sorted({name for run in runs for name in run.data.metrics}):
        values = [run.data.metrics.get(metric) for run in runs]
        without = [name for name, value in zip(categories, values, strict=True) if value is None]
        if metric.startswith(SECONDS):
            continue
        if without:
            undefined[UNDEFINED + metric] = f"not defined for {', '.join(without)}"
        else:
            # In the order of the tables, so that the last bit is theirs.
            means[metric] = sum(values) / len(values)
    return means, undefined


def _settings(run: Any) -> dict[str, str]:
    """Return what a run was told; the numbers of images are its category's."""
    return {k: v for k, v in run.data.params.items() if k not in COUNTS.values()}


def _check_same(values: Sequence[dict[str, str]], what: str) -> None:
    differing = {key for own in values for key, _ in own.items() ^ values[0].items()}
    if differing:
        raise NoAverageError(f"its runs differ in their {what} {', '.join(sorted(differing))}")


def _nothing(_folder: Path) -> None:
    """Write no artifact."""
