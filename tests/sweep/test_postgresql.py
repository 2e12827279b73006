"""Sweeps into an MLflow server on a real PostgreSQL, while it is up and while it is down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.tracking import read_runs, read_scores
from harness.tracking.contents import PID
from harness.tracking.store import connect, store_uri
from tests.sweep import postgresql
from tests.sweep.conftest import ROOT, as_process, numbers, runs, start, statuses, wait_until

SIX = ("-m", "dataset=btad", "category=01,02,03", "seed=1,2")
NEXT = ("-m", "dataset=visa", "category=glob(c*)", "seed=3,4")
N_NEXT = 8
WORKERS = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=3")
EXPERIMENT = """\
# @package _global_
defaults:
  - override /dataset: btad
  - override /backbone: custom
  - override /model: dfkde
seed: 1
image_size: 32
backbone:
  factory: tiny_backbone:build
  layers: ["1"]
hydra:
  sweeper:
    params:
      category: glob(*)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgresql.missing() is not None, reason=str(postgresql.missing())),
]


@pytest.fixture
def database():
    with postgresql.cluster() as running:
        yield running


@pytest.fixture
def server(empty_folder, database, monkeypatch):
    """A server on the loopback, to which `tracking=server` leads."""
    running = postgresql.Server(database.database(), empty_folder / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    running.start()
    yield running
    running.stop()


def push():
    command = [sys.executable, "-m", "harness.tracking", "push"]
    return subprocess.run(command, capture_output=True, text=True)


def scores(uri):
    """The anomaly scores of every finished run, by its identity."""
    finished = [run for run in read_runs(uri) if run.status == "finished"]
    return {run.identity: read_scores(run.run_id, uri) for run in finished}


def elsewhere(*sweep):
    """Run the sweep undisturbed into an SQLite store, and return its address."""
    # An absolute path: clients are kept by address, across the working folders of tests.
    uri = f"sqlite:///{Path('apart').resolve()}/mlflow.db"
    ended = as_process(*sweep, "features.cache=apart/cache", f"tracking.uri={uri}")
    assert ended.status == 0, ended.out + ended.err
    return uri


def test_several_workers_write_what_one_writes_to_sqlite(server):
    sweep = (*SIX, *WORKERS, "tracking=server")
    first = as_process(*sweep)
    assert first.status == 0, first.out + first.err
    assert "View run" not in first.out

    alone, client = elsewhere(*SIX), connect(server.uri)
    expected = numbers(connect(alone))
    assert len(expected) == 6
    assert numbers(client) == expected
    assert statuses(client) == {"FINISHED": 6}
    assert len({run.data.tags[PID] for run in runs(client)}) > 1
    # Times and processes apart, the tags are those of the other store.
    for run in runs(client):
        [duplicate] = runs(connect(alone), identity=run.data.tags["identity"])
        assert same_tags(run) == same_tags(duplicate)
        assert run.data.params == duplicate.data.params
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
            file.path for file in connect(alone).list_artifacts(duplicate.info.run_id)
        }
    assert scores(server.uri) == scores(alone)
    assert len(list((server.folder / "artifacts").rglob("scores.csv"))) == 6

    again = as_process(*sweep)
    assert again.status == 0, again.out + again.err
    assert again.out.count(": skipped (run ") == 6
    assert len(runs(client)) == 6

    report(server.uri, client)


def same_tags(run):
    return {
        name: value
        for name, value in run.data.tags.items()
        if not name.startswith(("process.", "mlflow."))
    }


def report(uri, client):
    """Make a table of the runs that are on the server."""
    # Synthetic data may be in no table; here the tag says otherwise.
    for run in runs(client):
        client.set_tag(run.info.run_id, "official", "true")
    shutil.copytree(ROOT / "conf", "conf")
    shutil.rmtree("conf/experiment")
    Path("conf/experiment").mkdir()
    Path("conf/experiment/bolts.yaml").write_text(EXPERIMENT)
    Path("README.md").write_text("<!-- table: bolts -->\n<!-- /table -->\n")
    command = [sys.executable, "-m", "harness.report", "--uri", uri]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [run] = runs(client, category="02", seed="1")
    text = Path("README.md").read_text()
    assert f"| 02 | {run.data.metrics['image_auroc']:.3f} |" in text, text
    assert "(2/3)" not in text
    assert run.info.run_id in Path("results/bolts.csv").read_text()


@pytest.mark.parametrize("victim", ["server", "database"])
def test_nothing_is_lost_while_the_store_is_down(server, database, monkeypatch, victim):
    alone = elsewhere(*NEXT)
    expected = numbers(connect(alone))
    assert len(expected) == N_NEXT
    client = connect(server.uri)
    monkeypatch.setenv("TINY_PAUSE", "0.5")
    sweep = (*NEXT, *WORKERS, "tracking=server")
    process = start(*sweep)
    wait_until(lambda: statuses(client)["FINISHED"] and statuses(client)["RUNNING"])
    (server if victim == "server" else database).stop()

    assert process.wait(500) == 0, Path("output.txt").read_text(encoding="utf-8")
    text = Path("output.txt").read_text(encoding="utf-8")
    assert f"results are waiting in {outbox()} for {server.uri}" in text, text
    waiting = len(entries())
    assert 1 <= waiting < N_NEXT
    assert push().returncode == 1
    refused = as_process(*sweep)
    assert refused.status == 1
    assert f"tracking.uri={server.uri}" in refused.err

    (server if victim == "server" else database).start()
    pushed = push()
    assert (pushed.returncode, pushed.stderr) == (0, "nothing is waiting\n")
    assert not entries()
    assert statuses(client) == {"FINISHED": N_NEXT}
    assert numbers(client) == expected
    assert scores(server.uri) == scores(alone)
    again = as_process(*sweep)
    assert again.status == 0, again.out + again.err
    assert again.out.count(": skipped (run ") == N_NEXT
    # Nothing of it went to the store of the folder.
    assert not os.path.exists(store_uri().removeprefix("sqlite:///"))


def outbox():
    [folder] = Path(f"runs/outbox-{os.getuid()}").resolve().iterdir()
    return folder


def entries():
    return [path for path in outbox().iterdir() if path.is_dir()]
