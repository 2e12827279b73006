"""The page that compares the models: which runs of a store have a row on it."""

from dataclasses import replace

import pytest

from benchmarks.models import BACKBONE_FACTORY, DEFAULTS, LAYERS, MAPS, MODELS, page
from tests.report.synthetic import record


def run(category="bottle", *, model="dfkde", localizer="occlusion", layer="bn2", **changes):
    """An invented record as `harness.run` would keep it with the page's settings."""
    settings = DEFAULTS | {"localizer": localizer, "backbone.layers": layer}
    names = {"dataset": "mvtec", "backbone": "efficientnet_lite0", "model": model}
    built = {"backbone_factory": BACKBONE_FACTORY, "model_factory": MODELS[model]}
    one = record(category, seed=42, **names, **built)
    fields = {"settings": settings, **changes}
    return replace(one, **fields)


def value(one, auroc):
    return replace(one, metrics={**one.metrics, "image_auroc": auroc})


EVERY = [
    value(run(category, model=model, localizer=localizer, layer=layer, official=official), 0.9)
    for category, official in (("bottle", True), ("pill", False))
    for model in MODELS
    for localizer in (*MAPS, "none")
    for layer in LAYERS
]


def test_every_row_is_there():
    text = page(EVERY)
    assert "## bottle\n" in text
    assert "## pill: resized, **not official**\n" in text
    assert text.count("| 0.900 |") >= 2 * 7 + len(LAYERS)
    assert "–" not in text


@pytest.mark.parametrize(
    "stranger",
    [
        run(seed=43),
        run("cable"),
        run(backbone="resnet50"),
        run(dataset="btad"),
        run(metrics={}),
        run(model_factory=MODELS["dfkde_residual"]),
        run(backbone_factory="mymodule:build"),
        *(run(settings={**run().settings, name: "7"}) for name in DEFAULTS),
    ],
)
def test_other_runs_of_the_store_change_nothing(stranger):
    stranger = value(stranger, 0.123) if stranger.metrics else stranger
    assert page([*EVERY, stranger]) == page(EVERY)


def test_the_newest_run_of_a_row_counts():
    text = page([*EVERY, value(run(), 0.777)])
    assert "| `dfkde` | `occlusion` | 0.777 |" in text
    assert "| `bn2` | 0.777 |" in text


def test_what_has_not_run_is_a_dash_or_left_out():
    text = page([value(run(), 0.9)])
    assert "| `bn2` | 0.900 | – | – | – |" in text
    assert "## pill" not in text
    assert page([]).count("–") == 4 * len(LAYERS)
