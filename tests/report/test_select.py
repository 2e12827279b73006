from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.record import StoredRun
from harness.report.declaration import Cell, ReportError, Table, read_table
from harness.report.layout import caption
from harness.report.selection import Selection, select
from tests.report.synthetic import SETTINGS, failed, few_shot, maskless, record, run

CONF = Path(__file__).parent / "checkout" / "conf"
BOLT = Cell("bolt", 42, "")


def _select(*runs: StoredRun, table: str = "parts_tiny") -> Selection:
    return select(read_table(CONF, table), runs)


def test_newest_finished_run_wins_and_the_others_are_told() -> None:
    old = run("old", record("bolt", 1), started="2025-01-01T00:00:00Z")
    new = run("new", record("bolt", 2), started="2025-03-01T00:00:00Z")
    late = failed("late", "bolt", "no memory", started="2025-04-01T00:00:00Z")
    selection = _select(new, late, old)
    assert selection.runs == {BOLT: new}
    assert selection.notes == ("parts_tiny: bolt has 2 finished runs, the newest is shown: new",)


def test_newest_failed_run_is_shown_where_none_finished() -> None:
    early = failed("early", "bolt", "no memory", started="2025-01-01T00:00:00Z")
    late = failed("late", "bolt", "no disk", started="2025-01-02T00:00:00Z")
    assert _select(late, early).runs == {BOLT: late}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 0},
        {"dataset": "cells"},
        {"backbone": "wide"},
        {"model": "knn"},
        {"category": "nut"},
        {"settings": SETTINGS | {"image_size": "255"}},
        {"settings": SETTINGS | {"center_crop": "224"}},
        {"settings": SETTINGS | {"model.n_components": "8"}},
        {"settings": SETTINGS | {"backbone.mean": "0.5,0.5"}},
        {"settings": SETTINGS | {"n_train": "10"}},
        {"settings": SETTINGS | {"features.precision": "bf16"}},
        {"settings": SETTINGS | {"undeclared": "1"}},
        {"settings": SETTINGS | {"backbone.arguments.depth": "18"}},
        {"settings": SETTINGS | {"model.n_components": "[8, 16]"}},
        {"settings": SETTINGS | {"model.n_components": "@x: y: z"}},
        {"settings": {}},
    ],
    ids=str,
)
def test_a_run_with_other_settings_stays_out(change: dict[str, Any]) -> None:
    values = {"category": "bolt"} | change
    assert _select(run("a", record(values.pop("category"), **values))).runs == {}


@pytest.mark.parametrize(
    ("group", "factory"),
    [("model", "dfkde:DFKDEResidual"), ("backbone", "elsewhere:tiny")],
)
@pytest.mark.parametrize("status", ["finished", "failed"])
def test_what_was_built_otherwise_than_declared_is_refused(
    group: str, factory: str, status: str
) -> None:
    """Under the right name and with the right settings it would be published as what it is not."""
    honest = run("honest", record("bolt", 1), started="2025-01-01T00:00:00Z")
    changed = record("bolt", 2, **{f"{group}_factory": factory})
    other = run("other", changed, status=status, started="2025-02-01T00:00:00Z")
    selection = _select(honest, other)
    assert selection.runs == {BOLT: honest}
    [note] = selection.notes
    assert note.startswith(f"parts_tiny: run other of bolt is refused, its {group} was built by")
    assert factory in note


def _with_backbone(**changes: Any) -> Table:
    table = read_table(CONF, "parts_tiny")
    config = table.config | {"backbone": table.config["backbone"] | changes}
    return replace(table, configs={"": config})


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"depth": "18"}, True),
        ({"depth": "50"}, False),
        ({}, False),
        ({"depth": "18", "width": "2"}, False),
    ],
)
def test_a_backbone_of_other_arguments_stays_out(given: dict[str, str], fits: bool) -> None:
    table = _with_backbone(arguments={"depth": 18})
    settings = SETTINGS | {f"backbone.arguments.{name}": value for name, value in given.items()}
    assert bool(select(table, [run("a", record("bolt", settings=settings))]).runs) is fits


def test_random_weights_stand_in_a_table_under_their_name_and_may_differ_by_seed() -> None:
    factory = "torchvision.models:resnet18"
    table = replace(_with_backbone(factory=factory), seeds=(1, 2))
    runs = [
        run(
            f"{seed}",
            record(
                "bolt", seed=seed, backbone=name, backbone_factory=factory, weights_digest=digest
            ),
        )
        for seed, digest in ((1, "ab" * 32), (2, "cd" * 32))
        for name in ("tiny", "tiny (random weights)")
    ]
    assert [one.record.backbone for one in select(table, runs).runs.values()] == [
        "tiny (random weights)"
    ] * 2
    mixed = run(
        "3",
        record(
            "cap", seed=1, backbone=table.choice("backbone"), backbone_factory=factory,
            weights_digest="ef" * 32,
        ),
    )  # fmt: skip
    with pytest.raises(ReportError, match="mixes 2 sets of weights"):
        select(table, [*runs, mixed])


@pytest.mark.parametrize(
    "spelling",
    [
        {"backbone.mean": ".5,.250"},
        {"image_size": "256.0"},
        {"n_train": "null"},
        {"center_crop": "None"},
    ],
    ids=str,
)
def test_settings_are_compared_by_value(spelling: dict[str, str]) -> None:
    assert BOLT in _select(run("a", record("bolt", settings=SETTINGS | spelling))).runs


def test_cropped_and_whole_images_share_no_table(tmp_path: Path) -> None:
    whole = run("whole", record("bolt"))
    cropped = run("cropped", record("bolt", settings=SETTINGS | {"center_crop": "224"}))
    of_cropped = _declare(tmp_path, "center_crop: 224")
    assert select(of_cropped, [whole, cropped]).runs == {BOLT: cropped}
    assert _select(cropped, whole).runs == {BOLT: whole}
    text = caption(of_cropped, [])
    assert "images of 256 px, of which the central 224 px, seed 42" in text


@pytest.mark.parametrize(("key", "other"), [("precision", "bf16"), ("resize", "float_antialias")])
def test_features_made_otherwise_share_no_table_and_are_labelled(
    tmp_path: Path, key: str, other: str
) -> None:
    usual = SETTINGS | {"features.resize": "pil", "features.device": "cuda"}
    plain = run("plain", record("bolt", settings=usual))
    changed = run("changed", record("bolt", settings=usual | {f"features.{key}": other}))
    features = {"resize": "pil", "device": "auto"}
    of_plain = _declare(tmp_path, yaml.safe_dump({"features": features}))
    of_changed = _declare(tmp_path, yaml.safe_dump({"features": features | {key: other}}))
    assert select(of_plain, [changed, plain]).runs == {BOLT: plain}
    assert select(of_changed, [plain, changed]).runs == {BOLT: changed}
    assert "features." not in caption(of_plain, [])
    assert f"images of 256 px, `features.{key}={other}`, seed 42" in caption(of_changed, [])


def test_no_declaration_mixes_precisions(tmp_path: Path) -> None:
    table = _declare(tmp_path, "features: {precision: auto}")
    assert select(table, [run("a", record("bolt"))]).runs == {}


def test_a_table_may_sweep_the_crop(tmp_path: Path) -> None:
    table = _declare(
        tmp_path, "hydra: {sweeper: {params: {category: glob(*), center_crop: 'null,224'}}}"
    )
    whole = run("whole", record("bolt"))
    cropped = run("cropped", record("bolt", settings=SETTINGS | {"center_crop": "224"}))
    assert select(table, [cropped, whole]).runs == {
        Cell("bolt", 42, "null"): whole,
        Cell("bolt", 42, "224"): cropped,
    }


def test_an_experiment_overrides_the_headline_settings() -> None:
    runs = _select(run("a", maskless("mono")), table="cells_small").runs
    assert list(runs) == [Cell("mono", 42, "")]


def test_a_sweep_has_a_cell_for_each_seed_and_value() -> None:
    runs = [
        run(f"{n}-{seed}", few_shot("bolt", n, seed, draw=1)) for n in (8, 4, 5) for seed in (2, 1)
    ]
    chosen = _select(*runs, table="parts_few").runs
    assert list(chosen) == [Cell("bolt", 1, "4"), Cell("bolt", 1, "8")]


def test_unofficial_data_are_refused_with_the_reason() -> None:
    selection = _select(run("a", record("bolt", official=False)))
    assert selection.runs == {}
    assert selection.notes == (
        "parts_tiny: run a of bolt is refused,"
        " its data are not the published dataset (official is false)",
    )


def _declare(tmp_path: Path, experiment: str) -> Table:
    for path in CONF.rglob("*.yaml"):
        target = tmp_path / path.relative_to(CONF)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    hydra = {"hydra": {"sweeper": {"params": {"category": "glob(*)"}}}}
    if "hydra" not in experiment:
        experiment = f"{experiment}\n{yaml.safe_dump(hydra)}"
    (tmp_path / "experiment" / "new.yaml").write_text(f"# @package _global_\n{experiment}")
    return read_table(tmp_path, "new")


def test_a_table_may_show_some_categories(tmp_path: Path) -> None:
    table = _declare(tmp_path, "hydra: {sweeper: {params: {category: '01,bolt'}}}")
    assert table.categories == ("bolt", "01"), "in the order of the dataset"


@pytest.mark.parametrize(
    ("experiment", "problem"),
    [
        (
            "hydra: {sweeper: {params: {category: nut}}}",
            r"new.yaml: category='nut' is not in dataset parts. Choose from: bolt",
        ),
        ("defaults: [override /backbone: huge]", "new.yaml: backbone must be one of .*'huge'"),
        ("image_sise: 64", "new.yaml: .*Key 'image_sise' not in 'Config'"),
        ("image_size: big", "new.yaml: .*Value 'big' of type 'str' could not be converted"),
        ("image_size: [", "new.yaml: while parsing"),
        ("defaults: [override /model: null]", "new.yaml: model must be given"),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path: Path, experiment: str, problem: str) -> None:
    with pytest.raises(ReportError, match=problem):
        _declare(tmp_path, experiment)
