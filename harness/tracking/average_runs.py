"""A run for each complete dataset of a sweep: the averages of its metrics over the categories."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from statistics import fmean
from typing import Any

from harness.config import Job
from harness.provenance import CHANGED
from harness.record import Outcome
from harness.system.terminal import one_line
from harness.tracking import contents, store
from harness.tracking.contents import AVERAGE, CODE, COUNTS, SCHEMA, UNDEFINED
from harness.tracking.outbox import Entry, push
from harness.tracking.tracker import MlflowTracker

# What the runs must share beside the job: what a job leaves to the machine.
_SHARED = (
    *("dataset", "model", "backbone", "seed", "model_factory", "backbone_factory"),
    *("official", "weights_digest", CODE, SCHEMA),
)


def averages(tracker: MlflowTracker, ends: Iterable[tuple[Job, Outcome]]) -> Iterator[str]:
    """Write a run for each dataset of which the sweep has every category, unless there is one.

    Yields a line for each one that is not written: the runs differ, or are not in the store yet, or
    the store fails, which costs that run only.
    """
    for job, outcomes in _complete(ends):
        try:
            ids = [outcome.run_id for outcome in outcomes if outcome.run_id is not None]
            _check_stored(len(outcomes) - len(ids))
            digest = sha256(json.dumps(sorted(ids)).encode()).hexdigest()
            with tracker.lock(digest) as holder:
                if holder is None:
                    _write(tracker, job, ids, digest=digest)
        except Exception as error:
            why = str(error) if isinstance(error, ValueError) else one_line(error)
            yield f"{job}: not written: {why}"


def _complete(ends: Iterable[tuple[Job, Outcome]]) -> Iterator[tuple[Job, list[Outcome]]]:
    """Yield each group of finished jobs that differ in the category only and leave out none.

    Where a dataset has one category, its run is the average.
    """
    groups: dict[str, tuple[Job, dict[str, Outcome]]] = {}
    for job, outcome in ends:
        average = replace(job, category="Average")
        _, found = groups.setdefault(repr(average), (average, {}))
        if outcome.status in ("finished", "skipped"):
            found[job.category] = outcome
    for average, found in groups.values():
        declared = average.dataset.categories
        if len(declared) > 1 and set(declared) == found.keys():
            yield average, [found[category] for category in declared]


def _check_stored(n_missing: int) -> None:
    if n_missing:
        rule = "the same command writes it once they are"
        raise ValueError(f"{n_missing} of its runs are not in the store yet; {rule}")


def _write(tracker: MlflowTracker, job: Job, ids: Sequence[str], *, digest: str) -> None:
    experiment, client = tracker.experiment(job), store.connect(tracker.uri)
    experiments = [store.experiment_id(tracker.uri, name=experiment)]
    stored = client.search_runs(experiments, f"tags.{AVERAGE} = '{digest}'", max_results=1)
    waiting = (entry.job_tags.get(AVERAGE) for entry in tracker.outbox.find(""))
    if not stored and digest not in waiting:
        runs = [client.get_run(run_id) for run_id in ids]
        tags = contents.average_tags(job, runs) | {AVERAGE: digest}
        entry = _average(runs, job, experiment=experiment, tags=tags)
        push(tracker.outbox.add(entry, {}), tracker.uri)


def _average(runs: Sequence[Any], job: Job, *, experiment: str, tags: dict[str, str]) -> Entry:
    """Return the averages over a run of each category, which must be of the same settings."""
    _check_stored(sum(run.info.status != "FINISHED" for run in runs))
    settings = [
        {name: value for name, value in run.data.params.items() if name not in COUNTS.values()}
        for run in runs
    ]
    shared = [{name: run.data.tags.get(name, "") for name in _SHARED} for run in runs]
    for what, values in (("tags", shared), ("settings", settings)):
        differing = {key for own in values for key, _ in own.items() ^ values[0].items()}
        if differing:
            raise ValueError(f"its runs differ in their {what} {', '.join(sorted(differing))}")
    if shared[0][CODE] == CHANGED:
        raise ValueError("the code was edited while its runs computed")
    means, undefined = _means(runs, job.dataset.categories)
    now = round(time.time() * 1000)
    return Entry(
        experiment=experiment,
        name=contents.run_name(job),
        run_id=None,
        status="FINISHED",
        started=now,
        ended=now,
        job_tags=tags,
        tags=undefined,
        params=settings[0],
        metrics=means,
    )


def _means(
    runs: Sequence[Any], categories: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the means by metric, and tags that name the categories without a metric."""
    means, undefined = {}, {}
    metrics = [contents.measured(run.data.metrics) for run in runs]
    for metric in sorted({name for own in metrics for name in own}):
        values: list[Any] = [own.get(metric) for own in metrics]
        without = [name for name, value in zip(categories, values, strict=True) if value is None]
        if without:
            undefined[UNDEFINED + metric] = f"not defined for {', '.join(without)}"
        else:
            means[metric] = fmean(values)  # as the tables do
    return means, undefined
