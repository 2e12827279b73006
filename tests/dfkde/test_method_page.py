"""The examples of docs/method.md and docs/metrics.md work as they stand there."""

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(("page", "least"), [("method.md", 30), ("metrics.md", 7)])
def test_examples(monkeypatch, tmp_path, page, least):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    results = doctest.testfile(str(DOCS / page), module_relative=False)
    assert results.attempted >= least
    assert results.failed == 0
