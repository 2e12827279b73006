"""The entry point: compose the configuration, then run one job or a sweep of jobs.

`python -m harness.run dataset=elpv category=mono` runs one job,
`python -m harness.run -m dataset=mvtec 'category=glob(*)'` one for each category.
"""

from __future__ import annotations

import logging
import time
from dataclasses import fields, replace

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from harness.categories import CategoryError, name_categories
from harness.confdir import conf_dir
from harness.config import Config, Job
from harness.evaluate import evaluate, identify
from harness.outcome import Outcome, failures, one_line, summary
from harness.tracking import Tracker, open_tracker

log = logging.getLogger(__name__)

ConfigStore.instance().store(name="schema", node=Config, provider="harness")


class JobError(CompactHydraException):
    """A job that cannot start, or that failed; Hydra prints it without a traceback."""


def main() -> None:
    """Run the command line of this process."""
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_task)()


def run_job(job: Job, tracker: Tracker, *, force: bool = False) -> Outcome:
    """Run one job, unless a finished run of it exists, and keep its record or its failure.

    Parameters
    ----------
    job : Job
        The job.
    tracker : Tracker
        Where its run is kept.
    force : bool
        Run it again although a finished run exists.

    Returns
    -------
    Outcome
        A fault of the job is its outcome, never an exception: the rest of a sweep goes on.
    """
    started = time.perf_counter()
    run_id = None
    try:
        identity = identify(job)
        earlier = None if force else tracker.finished(identity, dataset=job.dataset.name)
        if earlier is not None:
            reason = f"finished as run {earlier.run_id}; force=true runs it again"
            return Outcome(str(job), "skipped", earlier.run_id, earlier.record.metrics, reason)
        run_id = tracker.start(job, identity)
        record = evaluate(job)
        tracker.finish(run_id, job, record=record)
        outcome = Outcome(str(job), "finished", run_id, record.metrics)
    except Exception as error:
        log.debug("%s failed", job, exc_info=True)
        run_id = tracker.start(job, None) if run_id is None else run_id
        tracker.fail(run_id, error)
        outcome = Outcome(str(job), "failed", run_id, reason=one_line(error))
    return replace(outcome, seconds=time.perf_counter() - started)


def _task(cfg: DictConfig) -> Outcome:
    config: Config = OmegaConf.to_object(cfg)  # type: ignore[assignment]
    outcome = run_job(_job(config), open_tracker(config.tracking), force=config.force)
    # A sweep prints one summary of all its jobs and fails at its end, in the sweeper.
    if HydraConfig.get().mode == RunMode.RUN:
        print(summary([outcome]))  # noqa: T201
        if failures([outcome]):
            raise JobError("the job failed")
    return outcome


def _job(config: Config) -> Job:
    """Take the job out of the whole configuration; everything in it is checked here."""
    try:
        name_categories(
            None if config.category is None else [config.category],
            {config.dataset.name: config.dataset.categories},
        )
    except CategoryError as error:
        raise JobError(str(error)) from None
    return Job(**{field.name: getattr(config, field.name) for field in fields(Job)})


if __name__ == "__main__":
    main()
