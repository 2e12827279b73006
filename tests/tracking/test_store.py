"""A store is made wholly or not at all, and by writers only; its experiments open in our view."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing

import pytest

from harness.metrics.registry import HEADLINE
from harness.report.__main__ import main as report
from harness.tracking import StoreError, read_job, read_runs, read_scores
from harness.tracking.__main__ import main as tracking
from harness.tracking.model import fetch_model
from harness.tracking.store import connect, experiment_id
from harness.tracking.view import TAG, link

RULE = "tracking.uri must name a store that exists, got sqlite:///"


@pytest.fixture
def missing(tmp_path):
    """The address of a store that does not exist."""
    return f"sqlite:///{tmp_path}/runs/mlflow.db"


@pytest.mark.parametrize(
    "read", [read_runs, lambda u: read_scores("1", u), lambda u: read_job("1", u)]
)
def test_reading_makes_no_store(missing, tmp_path, read):
    with pytest.raises(
        StoreError, match=re.escape(f"got {missing}; `python -m harness.run` makes")
    ):
        read(missing)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", [lambda u: report(["--uri", u]), lambda u: tracking(["ui", "--uri", u])]
)
def test_commands_that_read_tell_it_in_one_line(missing, tmp_path, command, capsys):
    assert command(missing) == 1
    assert capsys.readouterr().err.startswith(f"error: {RULE}{tmp_path}")
    assert not list(tmp_path.iterdir())


def test_model_of_a_store_that_is_not_there(missing, tmp_path):
    with pytest.raises(ValueError, match=RULE):
        fetch_model("1", missing, folder=tmp_path)


def test_store_whose_making_was_killed_is_made_anew(missing, tmp_path):
    part = tmp_path / "runs" / ".mlflow.db.part"
    part.mkdir(parents=True)
    # What a process that was killed in the middle of MLflow's steps leaves behind.
    with closing(sqlite3.connect(part / "mlflow.db")) as store:
        store.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        store.execute("CREATE TABLE secrets (secret_id INTEGER)")
    assert [e.name for e in connect(missing).search_experiments()] == ["Default"]
    assert not part.exists()


def test_store_is_not_there_before_it_is_whole(missing, tmp_path, monkeypatch):
    seen = []

    def make(uri, *_):
        seen.append(list((tmp_path / "runs").glob("mlflow.db")))
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", make)
    with pytest.raises(KeyboardInterrupt):
        connect(missing)
    assert seen == [[]]
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def test_experiment_has_the_view(uri):
    experiment = connect(uri).get_experiment(experiment_id(uri, name="viewed"))
    state = json.loads(experiment.tags[TAG])
    cell = [f"tags.`{name}`" for name in ("category", "model", "backbone", "seed")]
    assert state["selectedColumns"][:8] == cell + [f"metrics.`{name}`" for name in HEADLINE]
    assert set(state["selectedColumns"]) <= set(state["columnOrder"]) == set(state["columnWidths"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("tags.`category`", True)
    assert [chart["metricKey"] for chart in state["compareRunCharts"]] == list(HEADLINE)
    [section] = state["compareRunSections"]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {section["uuid"]}
    assert link("http://h", "7").startswith("http://h/#/experiments/7/runs?")
    assert link("http://h", "7").endswith("&viewStateShareKey=tables")
