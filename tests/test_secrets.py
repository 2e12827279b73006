"""A password in a store's address is carried, written and shown nowhere."""

from __future__ import annotations

import pytest

from harness.system.secrets import masked, with_secrets, without_secrets
from harness.tracking import StoreError, store_uri

ADDRESSES = [
    ("postgresql://me:p4ss@host:5432/runs", "postgresql://me@host:5432/runs"),
    ("postgresql+psycopg2://me:p%40s/s@host/runs", "postgresql+psycopg2://me@host/runs"),
    ("postgresql://me:p@ss@host/runs", "postgresql://me@host/runs"),
    ("mysql://me:@host/runs", "mysql://me@host/runs"),
    ("postgresql://me@host/runs?password=p4ss&a=1", "postgresql://me@host/runs?password=&a=1"),
    ("http://me:p4ss@host:5000", "http://host:5000"),
    ("https://T0KEN@host/path", "https://host/path"),
    ("http://me:p4/s@s@host:5000", "http://host:5000"),
    ("mssql+pyodbc:///?odbc_connect=PWD%3Dp4ss", "mssql+pyodbc:///?odbc_connect="),
    ("http://host:5000/a@b", "http://host:5000/a@b"),
    ("http://host:/a@b", "http://host:/a@b"),
    ("http://[::1]:5000/a@b", "http://[::1]:5000/a@b"),
    ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ("sqlite:////a:b@c/mlflow.db", "sqlite:////a:b@c/mlflow.db"),
    ("databricks", "databricks"),
]


@pytest.mark.parametrize(("whole", "address"), ADDRESSES)
def test_address_without_secrets(whole, address, monkeypatch):
    assert without_secrets(whole) == address
    assert without_secrets(address) == address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    assert with_secrets(address) == whole
    assert store_uri(whole) == address
    assert with_secrets("http://another") == "http://another"


def test_a_password_is_typed_nowhere(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(StoreError) as caught:
        store_uri("postgresql://me:p4ss@host/runs")
    assert str(caught.value) == (
        "tracking.uri must hold no password, got postgresql://me@host/runs with one;"
        " set MLFLOW_TRACKING_URI to the whole of it"
    )


def test_messages_show_no_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:p%40ssw@host/runs")
    assert masked("no p@ssw and no p%40ssw, me") == "no *** and no ***, me"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://T0KEN@host")
    assert masked("T0KEN is refused") == "*** is refused"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert masked("http://a:b@c/d e") == "http://***@c/d e"
    assert masked("a@b: http://c:1/d@e") == "a@b: http://c:1/d@e"


def test_the_path_of_a_store_is_that_of_the_folder_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_uri("sqlite:///apart/mlflow.db") == f"sqlite:///{tmp_path}/apart/mlflow.db"
    assert store_uri(f"sqlite:///{tmp_path}/mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
