"""A store is made wholly or not at all, and by writers only; its experiments open in our view."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import mlflow.store.db.utils
import pytest

from harness.gallery import main as gallery
from harness.metrics.registry import HEADLINE
from harness.predict.model import fetch_model
from harness.report.__main__ import main as report
from harness.system.locks import hold
from harness.tracking import StoreError, outdated, read_job, read_runs, read_scores
from harness.tracking.__main__ import main as tracking
from harness.tracking.store import TAG, connect, experiment_id, link, sqlite_file, store_uri

ROOT = Path(__file__).parents[2]
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


def _damage(path: Path, *, at: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:at] + b"x" * (len(content) - at))


def _execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as store, store:
        store.execute(statement)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _foreign(path: Path) -> None:
    path.unlink()
    _execute(path, "CREATE TABLE own (word TEXT)")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN = {
    "header": (partial(_damage, at=0), "DatabaseError: file is not a database"),
    "pages": (partial(_damage, at=8192), "DatabaseError: database disk image is malformed"),
    "empty": (_empty, "OperationalError: no such table: alembic_version"),
    "foreign": (_foreign, "OperationalError: no such table: alembic_version"),
    "folder": (_folder, "OperationalError: "),
    "newer": (
        partial(_execute, statement="UPDATE alembic_version SET version_num = 'ffffffffffff'"),
        "MlflowException: Detected out-of-date database schema (found version ffffffffffff",
    ),
    "lacks a table": (
        partial(_execute, statement="DROP TABLE experiments"),
        "MlflowException: (sqlite3.OperationalError) no such ",
    ),
}


@pytest.fixture
def broken(request, uri, tmp_path):
    """The address of a store that nobody can read, and what is said of it."""
    path = tmp_path / "mlflow.db"
    with (
        closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as whole,
        closing(sqlite3.connect(path)) as copy,
    ):
        whole.backup(copy)
    harm, said = BROKEN[request.param]
    harm(path)
    return f"sqlite:///{path}", said


@pytest.fixture
def away(monkeypatch):
    """The address of a server that is down, which is asked once only."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return "http://127.0.0.1:9", "MlflowException: API request to http://127.0.0.1:9/api/"


def _check_reports(uri, said, tmp_path, capfd):
    """Hold the one line of every command that reads, as a process would print it."""
    out = str(tmp_path / "out")
    commands = [
        partial(report, ["--root", str(tmp_path / "nowhere"), "--uri", uri]),
        partial(gallery, ["--root", str(ROOT), "demo", "--output", out, "--uri", uri]),
        partial(tracking, ["ui", "--uri", uri]),
    ]
    for command in commands:
        assert command() == 1
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith(f"error: tracking.uri={uri}: {said}")
    for read in (read_runs, outdated, partial(read_scores, "1"), partial(read_job, "1")):
        with pytest.raises(StoreError, match=re.escape(f"tracking.uri={uri}: {said}")):
            read(uri)


@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_store_that_cannot_be_read_is_reported_in_one_line_and_left_alone(broken, tmp_path, capfd):
    uri, said = broken
    path = tmp_path / "mlflow.db"
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(StoreError, match=re.escape(f"tracking.uri={uri}: {said}")):
        read_runs(uri)
    assert report(["--root", str(tmp_path / "nowhere"), "--uri", uri]) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: tracking.uri={uri}: {said}")
    assert before is None or said.startswith("Mlflow") or path.read_bytes() == before


@pytest.mark.parametrize("broken", ["header", "newer"], indirect=True)
def test_every_command_reports_a_store_that_cannot_be_read(broken, tmp_path, capfd):
    _check_reports(*broken, tmp_path, capfd)


def test_server_that_is_down_is_reported_in_one_line(away, tmp_path, capfd):
    _check_reports(*away, tmp_path, capfd)


def test_store_that_fails_while_it_is_read_is_reported(uri, monkeypatch):
    def fail(*_args, **_options):
        raise ConnectionResetError("gone")

    monkeypatch.setattr(connect(uri), "search_runs", fail)
    monkeypatch.setattr("harness.tracking.store.ended_runs", fail)
    for read in (read_runs, outdated):
        with pytest.raises(StoreError, match=f"tracking.uri={uri}: ConnectionResetError: gone$"):
            read(uri)


@pytest.mark.parametrize(
    ("text", "problem"),
    [(None, "[A-Za-z]+: "), ("a,b\n1,2\n", "ValueError: its columns must be image, defect_type")],
)
def test_scores_that_are_not_there_are_reported(uri, text, problem):
    client = connect(uri)
    run_id = client.create_run("0").info.run_id
    if text is not None:
        client.log_text(run_id, text, "scores.csv")
    message = f"scores.csv of run {run_id} cannot be read: {problem}"
    with pytest.raises(ValueError, match=message):
        read_scores(run_id, uri)


def test_model_of_a_store_that_is_not_there(missing, tmp_path):
    with pytest.raises(ValueError, match=RULE):
        fetch_model("1", missing, folder=tmp_path)


def test_store_whose_making_was_killed_is_made_again(missing, tmp_path):
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


def test_store_that_another_process_never_lets_go_of_is_reported(missing, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.tracking.store._PATIENCE", 0.0)
    (tmp_path / "runs").mkdir()
    with (
        hold(tmp_path / "runs" / "mlflow.db.lock"),
        pytest.raises(StoreError, match="must be free"),
    ):
        connect(missing)


def test_database_that_is_down_is_asked_twice_only(monkeypatch):
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 10)
    monkeypatch.setattr("mlflow.MlflowClient", lambda tracking_uri: None)
    connect.__wrapped__("postgresql://me@host/runs")
    assert mlflow.store.db.utils.MAX_RETRY_COUNT == 2


def test_experiment_has_the_view(uri):
    experiment = connect(uri).get_experiment(experiment_id(uri, name="viewed"))
    state = json.loads(experiment.tags[TAG])
    cell = [f"tags.`{name}`" for name in ("category", "model", "backbone", "seed")]
    assert state["selectedColumns"][:8] == cell + [f"metrics.`{name}`" for name in HEADLINE]
    assert set(state["selectedColumns"]) <= set(state["columnOrder"]) == set(state["columnWidths"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("tags.`category`", True)
    assert [chart["metricKey"] for chart in state["compareRunCharts"]] == list(HEADLINE)
    assert "tags.`swept`" in state["selectedColumns"]
    [section] = state["compareRunSections"]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {section["uuid"]}
    assert len(experiment.tags[TAG]) < 5000  # of an older server's database
    assert (type(state.pop("name")), state.pop("createdAt")) == (str, 0)
    assert json.loads(state.pop("state")) == state  # as MLflow reads it, and older versions did
    assert link("http://h", "7").startswith("http://h/#/experiments/7/runs?")
    assert link("http://h", "7").endswith("&viewStateShareKey=tables")


@pytest.mark.parametrize("name", ["a%20b", "a?b=c", 'it\'s "q"', "a#b", "%", "größe 日本"])
def test_a_store_may_be_in_a_folder_of_any_name(tmp_path, make_store, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    make_store(folder / "runs")
    monkeypatch.chdir(folder)
    uri = store_uri()
    assert sqlite_file(uri) == folder / "runs" / "mlflow.db"
    assert store_uri(uri) == uri
    client = connect(uri)
    run = client.create_run(experiment_id(uri, name="some"))
    client.log_metric(run.info.run_id, "one", 1)
    # MLflow itself makes an empty folder by the escaped name.
    assert all(path.is_relative_to(folder) for path in tmp_path.rglob("*") if path.is_file())
    assert client.get_run(run.info.run_id).data.metrics == {"one": 1}


@pytest.mark.parametrize("uri", ["", "  "])
def test_an_empty_address_is_not_that_of_the_default_store(uri):
    with pytest.raises(StoreError, match=r"^tracking.uri must be an address, got '.*': is MLFLOW"):
        store_uri(uri)
