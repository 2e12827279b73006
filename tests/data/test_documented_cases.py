"""The table of `docs/datasets.md`: each of its commands gives what it says, on generated files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import harness.run  # noqa: F401 - registers the schema
from harness.config import conf_dir
from harness.data import load_split
from harness.data.__main__ import main
from harness.experiment import evaluate
from tests.data.cases import CASES

ROOT = Path(__file__).resolve().parents[2]
# In place of a real network.
TINY = [
    *("backbone=custom", "backbone.factory=tests.tiny:build", "backbone.layers=[features]"),
    *("backbone.mean=[.5,.5,.5]", "backbone.std=[.25,.25,.25]", "model.params.n_components=4"),
    *("image_size=32", "features.engine=torch", "features.cache=null"),
]


class Row(NamedTuple):
    what: str
    command: str
    images: str
    note: str


def rows():
    page = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
    table = page.split("<!-- cases -->")[1].split("<!-- /cases -->")[0].strip().splitlines()
    return [Row(*(cell.strip() for cell in line.split("|")[1:-1])) for line in table[2:]]


def root_of(row):
    return re.search(r"dataset\.root=(\w+)", row.command)[1]


def test_the_table_has_every_case():
    assert list(dict.fromkeys(map(root_of, rows()))) == list(CASES)


def job_of(row):
    _, _, module, *arguments = shlex.split(row.command.strip("`"))
    assert module == "harness.run"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_object(compose("config", [*arguments, *TINY])).job()


@pytest.mark.parametrize("row", [row for row in rows() if row.images], ids=root_of)
def test_each_command_gives_what_the_table_says(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    CASES[root_of(row)](tmp_path / root_of(row))
    for other in rows():
        if not other.images and root_of(other) == root_of(row):
            assert main(shlex.split(other.command.strip("`"))[3:]) == 1
    job = job_of(row)
    split = load_split(job.dataset, job.category, seed=job.seed)
    anomalous = sum(sample.anomalous for sample in split.test)
    masks = sum(sample.mask_name is not None for sample in split.test)
    counts = f"{len(split.train)} + {len(split.test) - anomalous} + {anomalous}, {masks} masks"
    assert (counts, row.note in "\n".join(split.notes)) == (row.images, True)
    assert bool(split.notes) == bool(row.note)
    assert not split.official
    if root_of(row) != "large":  # which takes a second to decode
        record = evaluate(job, split=split)
        assert (record.n_left_out, record.n_duplicates) == (split.n_left_out, split.n_duplicates)
        assert ("aupro" in record.metrics) == (masks > 0)
