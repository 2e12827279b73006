"""`report show`: tables of whatever a store holds, on invented runs with numbers worked by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from harness.record import ImageScore, StoredRun
from harness.report.__main__ import main
from harness.report.declaration import ReportError
from harness.report.layout import grid_of_pivot, of_type
from harness.report.query import caption_of, render, search
from harness.report.selection import as_read
from tests.report.synthetic import SETTINGS, failed, metrics, record, run, scores


def made(run_id: str, category: str = "bolt", draw: int = 1, **changes: Any) -> StoredRun:
    """Invent a finished run; a setting is given by its name, a field of the run by its own."""
    of_run = {k: changes.pop(k) for k in ("started", "machine", "identity") if k in changes}
    own = {k: changes.pop(k) for k in list(changes) if k in SETTINGS}
    more = changes.pop("settings", {})
    images = scores(draw)
    of = record(category, draw, settings=SETTINGS | own | more, metrics=metrics(images), **changes)
    key = "|".join(map(str, (of.dataset, category, of.model, of.backbone, of.seed, of.settings)))
    # A fingerprint is of the category's data, whatever the scores.
    of = replace(of, data_fingerprint=changes.get("data_fingerprint", f"{category:0<12}"))
    return run(run_id, of, **{"identity": key, **of_run})


def grid(runs: Sequence[StoredRun], *arguments: str) -> list[tuple[str, ...]]:
    found = grid_of_pivot(search(arguments, runs, read=as_read).pivot)
    return [found.header, *found.body, *filter(None, [found.average])]


def refusal(runs: Sequence[StoredRun], *arguments: str) -> str:
    with pytest.raises(ReportError) as caught:
        search(arguments, runs, read=as_read)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def auroc(draw: int) -> str:
    labels = [image.anomalous for image in scores(draw)]
    return f"{roc_auc_score(labels, [image.score for image in scores(draw)]):.3f}"


KNN = {"model": "knn", "model_factory": "dfkde.baselines:KNN"}
TWO = [
    made("a", "bolt", 1),
    made("b", "nut", 2),
    made("c", "bolt", 5, **KNN),
    made("d", "nut", 6, **KNN),
]


def test_categories_by_models_with_an_average_over_the_categories_seen() -> None:
    rows = grid(TWO)
    assert rows[:3] == [
        ("Category", "dfkde", "knn"),
        ("bolt", auroc(1), auroc(5)),
        ("nut", auroc(2), auroc(6)),
    ]
    values = [[metrics(scores(draw))["image_auroc"] for draw in pair] for pair in ((1, 2), (5, 6))]
    assert rows[3] == ("Average", *(f"{sum(pair) / 2:.3f}" for pair in values))


def test_axes_can_be_swapped_and_the_average_follows() -> None:
    upright, turned = grid(TWO), grid(TWO, "rows=model", "columns=category")
    assert turned[1:] == [*zip(*upright, strict=True)][1:]
    assert turned[0][1:] == next(zip(*upright, strict=True))[1:]


def test_a_gap_leaves_no_average() -> None:
    assert grid(TWO[:3])[2:] == [("nut", auroc(2), "–"), ("Average", grid(TWO)[3][1], "– (1/2)")]


def test_a_published_dataset_has_all_its_categories_to_average_over() -> None:
    runs = [made(name, name, dataset="mvtec") for name in ("zipper", "bottle", "cable")]
    assert [line[0] for line in grid(runs)] == ["Category", "bottle", "cable", "zipper", "Average"]
    assert grid(runs)[-1] == ("Average", "– (3/15)")


def test_seeds_are_averaged_with_the_sample_deviation() -> None:
    def of_seed(seed: int, value: float, category: str) -> StoredRun:
        # value = wins / 4: one normal image, four anomalous ones
        images = [ImageScore("n", "good", False, 0.0)]
        images += [
            ImageScore(f"a{i}", "bent", True, 1.0 if i < 4 * value else -1.0) for i in range(4)
        ]
        numbers = {"image_auroc": value, "image_f1_max": metrics(tuple(images))["image_f1_max"]}
        of = record(category, seed=seed, scores=tuple(images), metrics=numbers)
        of = replace(of, n_test_normal=1, n_test_anomalous=4, data_fingerprint=category)
        return run(f"{category}{seed}", of)

    runs = [of_seed(1, 0.25, "bolt"), of_seed(2, 0.75, "bolt")]
    # mean 0.5, squared deviations 2 * 0.0625, divided by 2 - 1: sqrt(0.125)
    assert grid(runs)[1] == ("bolt", "0.500 ± 0.354")
    runs += [of_seed(1, 0.5, "nut"), of_seed(2, 0.5, "nut")]
    assert grid(runs)[2] == ("nut", "0.500 (deterministic)")
    # averages of the seeds: 0.375, 0.625
    assert grid(runs)[3] == ("Average", "0.500 ± 0.177")
    assert grid(runs[:3])[2:] == [("nut", "– (1/2)"), ("Average", "– (1/2)")]
    assert search([], runs[:3], read=as_read).notes == (
        "cells are of different seeds, 1 and 1,2: choose with seed=VALUE",
    )
    assert grid(runs, "columns=seed")[1] == ("bolt", "0.250", "0.750")
    assert grid(runs, "seed=2")[1:] == [
        ("bolt", "0.750"),
        ("nut", "0.500"),
        ("Average", "0.625"),
    ]
    text = render(search(["format=csv"], runs, read=as_read), [])
    assert list(csv.reader(io.StringIO(text))) == [
        ["category", "official", "dfkde", "dfkde: standard deviation"],
        ["bolt", "true", "0.5", "0.3535533905932738"],
        ["nut", "true", "0.5", "0.0"],
    ]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"dataset": "cells"}, "dataset (cells, parts)"),
        ({"backbone": "wide"}, "backbone (tiny, wide)"),
        ({"image_size": "128"}, "image_size (128, 256)"),
        ({"n_train": "20"}, "n_train (None, 20)"),
        ({"localizer": "none"}, "localizer (none, occlusion)"),
        ({"features.precision": "bf16"}, "features.precision (bf16, fp32)"),
        ({"model.n_components": "8"}, "model.n_components (8, 16) of dfkde"),
        ({"settings": {"dataset.train_share": "0.5"}}, "dataset.train_share (–, 0.5) of parts"),
        ({"weights_digest": "cd" * 32}, "weights_digest (abababababab, cdcdcdcdcdcd) of tiny"),
        ({"official": False}, "official (false, true) of parts/bolt"),
        ({"data_fingerprint": "f" * 64}, "data_fingerprint (bolt00000000, ffffffffffff) of parts/"),
        ({"model_factory": "mine:DFKDE"}, "model_factory (dfkde:DFKDE, mine:DFKDE) of dfkde"),
        ({"backbone_factory": "mine:f"}, "backbone_factory (mine:f, nowhere:tiny) of tiny"),
        ({"identity": "another"}, "identity ("),
    ],
    ids=str,
)
@pytest.mark.parametrize("category", ["bolt", "nut"])
def test_what_differs_otherwise_than_by_an_axis_is_never_mixed(
    other: dict[str, Any], expected: str, category: str
) -> None:
    """Neither in a cell nor in a column nor beside one another."""
    runs = [made("new", category, 2, **other), made("old", started="2025-09-01T00:00:00Z")]
    of_category = {"official", "data_fingerprint", "identity"}
    if category == "nut" and of_category & set(other):
        assert len(grid(runs)) == 4  # other data by nature
        return
    message = refusal(runs)
    assert message.startswith("the runs differ in "), message
    assert expected in message
    name = expected.partition(" (")[0]
    assert f"choose with {name}=VALUE" in message or f" {name}=VALUE" in message


def test_a_model_on_maps_stands_beside_one_with_a_localizer() -> None:
    """It makes its own maps; but two localizers of pooled features are two settings."""
    own = {"localizer": "none", "settings": {"model.layers": "a,b"}}
    runs = [made("a"), made("b", draw=2, model="padim", model_factory="dfkde:PaDiM", **own)]
    assert grid(runs)[1] == ("bolt", auroc(1), auroc(2))
    assert grid(runs, "rows=model,localizer", "columns=metric", "metric=image_auroc")[1:] == [
        ("dfkde · occlusion", auroc(1)),
        ("padim", auroc(2)),
    ]
    assert "localizer (none, occlusion):" in refusal([*runs, made("c", localizer="none")])


def test_one_choice_or_one_axis_resolves_it() -> None:
    runs = [made("a", n_train="20"), made("b", draw=2, n_train="160"), made("c", draw=5)]
    assert "n_train (" in refusal(runs)
    assert grid(runs, "n_train=20")[1] == ("bolt", auroc(1))
    assert grid(runs, "n_train=null")[1] == ("bolt", auroc(5))
    assert grid(runs, "columns=n_train")[:2] == [
        ("Category", "n_train = None", "n_train = 20", "n_train = 160"),
        ("bolt", auroc(5), auroc(1), auroc(2)),
    ]
    assert grid(runs, "columns=n_train", "n_train=160,20")[0] == (
        "Category",
        "n_train = 160",
        "n_train = 20",
    )


def test_a_setting_of_one_model_leaves_the_other_models_alone() -> None:
    eight = made("e", "bolt", 7, **{"model.n_components": "8"})
    knn = [replace(r, record=replace(r.record, settings={
        k: v for k, v in r.record.settings.items() if k != "model.n_components"
    })) for r in TWO[2:]]  # fmt: skip
    runs = [*TWO[:2], *knn, eight]
    assert "model.n_components (8, 16) of dfkde" in refusal(runs)
    assert grid(runs, "model.params.n_components=16.0") == grid(TWO)


def test_a_setting_that_one_of_two_runs_does_not_tell_can_be_asked_for() -> None:
    runs = [made("old"), made("new", draw=5, settings={"model.extra": "1"})]
    assert "model.extra (–, 1) of dfkde" in refusal(runs)
    assert grid(runs, "model.extra=1")[1] == ("bolt", auroc(5))


def test_a_resized_copy_and_the_original_are_never_mixed_and_marked() -> None:
    """Two models' columns would be of two datasets, without a word."""
    resized = made("r", "nut", 3, official=False, data_fingerprint="e" * 64)
    assert "official (false, true) of parts/nut" in refusal([*TWO[:1], resized, *TWO[2:]])
    assert "official (false, true) of parts/nut" in refusal([*TWO, resized])
    beside = grid([*TWO[:2], resized], "category=nut", "columns=official")
    assert beside[0] == ("Category", "official = false (not official)", "official = true")
    rows = grid([TWO[0], resized])
    assert [line[0] for line in rows[1:]] == [
        "bolt",
        "nut (not official)",
        "Average (not official)",
    ]
    found = search([], [TWO[0], resized], read=as_read)
    assert "Not official: parts/nut" in caption_of(found, [])
    turned = grid([TWO[0], resized], "rows=model", "columns=category")
    assert turned[0] == ("Model", "bolt", "nut (not official)", "Average (not official)")


def test_every_line_of_own_data_is_marked() -> None:
    runs = [made("a", official=False), made("b", draw=5, official=False, **KNN)]
    rows = grid(runs, "rows=model", "columns=metric", "metric=image_auroc")
    assert [line[0] for line in rows] == ["Model", "dfkde (not official)", "knn (not official)"]


def test_random_weights_differ_by_seed() -> None:
    name = {"backbone": "net (random weights)", "backbone_factory": "torchvision.models:resnet18"}
    runs = [made(f"{s}", seed=s, weights_digest=f"{s}a" * 32, draw=s, **name) for s in (1, 2)]
    assert "±" in grid(runs)[1][1]
    again = made("3", "nut", seed=1, weights_digest="3a" * 32, **name)
    assert "weights_digest (" in refusal([*runs, again])


def test_the_newest_run_of_a_cell_is_shown_and_the_others_are_told() -> None:
    old, new = made("old", draw=1), made("new", draw=5, started="2026-01-01T00:00:00Z")
    found = search([], [old, new], read=as_read)
    assert [one.run_id for one in found.runs] == ["new"]
    assert found.notes == ("1 of 1 cells have several finished runs, the newest is shown",)


def test_a_run_whose_scores_do_not_give_its_metrics_is_refused_and_named() -> None:
    false = made("false", started="2026-01-01T00:00:00Z")
    false = replace(false, record=replace(false.record, metrics={"image_auroc": 1.0}))
    found = search([], [false, made("true")], read=as_read)
    assert [one.run_id for one in found.runs] == ["true"]
    assert "run false of bolt is refused, its image_auroc is 1.0" in found.notes[0]
    assert refusal([false]) == "nothing is left to show"


def test_failed_jobs_are_told_where_no_run_finished() -> None:
    lost = failed("f", "nut", "OSError: 1.png is truncated")
    again = failed("g", "bolt", "late", started="2026-01-01T00:00:00Z")
    found = search([], [TWO[0], lost, again], read=as_read)
    assert found.notes == ("1 failed runs are not shown; the newest: OSError: 1.png is truncated",)
    assert len(found.runs) == 1
    assert refusal([lost]) == "the store has no finished run"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["modle=knn"], "unknown key 'modle'; choose from rows, columns, metric, format"),
        (["model=knnn"], "no finished run has model=knnn; there are dfkde, knn"),
        (["model=dfkde,knnn"], "no finished run has model=knnn; there are dfkde, knn"),
        (["rows=modl"], "unknown key of rows or columns 'modl'; choose from dataset, category"),
        (["rows=model"], "rows and columns must have no key twice, got model"),
        (["metric=auc"], "unknown metric 'auc'; choose from image_auroc, image_f1_max"),
        (["metric=aupro,image_auroc"], "2 metrics need rows=metric or columns=metric"),
        (["format=pdf"], "unknown format 'pdf'; choose from markdown, csv, html, latex"),
        (["format=csv,html"], "unknown format 'csv,html'; choose from markdown"),
        (["model"], "must be KEY=VALUE or KEY=VALUE,VALUE, got 'model'"),
        (["model="], "must be KEY=VALUE or KEY=VALUE,VALUE, got 'model='"),
        (["model=knn", "model=dfkde"], "model must be given once, got knn and dfkde"),
        (["columns=defect_type", "model=knn", "category=bolt", "metric=aupro"], "has no aupro"),
        (["category=bolt", "data_fingerprint=nut"], "no finished run has all of category=bolt"),
    ],
    ids=str,
)
def test_a_mistake_is_answered_in_one_line(arguments: list[str], expected: str) -> None:
    assert expected in refusal(TWO, *arguments)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("category=glob(b*)", ["bolt"]),
        ("category=nut,bolt", ["nut", "bolt"]),
        ("category='nut'", ["nut"]),
        ("data_fingerprint=bol", ["bolt"]),
        ("backbone.layers=[layer4]", ["bolt", "nut"]),
        ("backbone.mean=[.5,0.25]", ["bolt", "nut"]),
        ("dataset.official=true", ["bolt", "nut"]),
    ],
)
def test_choices_are_written_as_for_a_run(choice: str, names: list[str]) -> None:
    assert [line[0] for line in grid(TWO, choice)[1:-1]] == names


@pytest.mark.parametrize("metric", ["image_auroc", "image_average_precision"])
def test_a_defect_type_is_measured_against_the_normal_images_alone(metric: str) -> None:
    oracle = {"image_auroc": roc_auc_score, "image_average_precision": average_precision_score}
    rows = grid(TWO, "category=nut", "rows=defect_type", f"metric={metric}")
    expected = []
    for kind in ("bent", "crack"):
        values = [kind]
        for draw in (2, 6):
            images = [i for i in scores(draw) if i.defect_type in ("good", kind)]
            truth = [image.anomalous for image in images]
            values.append(f"{oracle[metric](truth, [image.score for image in images]):.3f}")
        expected.append(tuple(values))
    assert rows == [("Defect type", "dfkde", "knn"), *expected]
    only = grid(TWO, "category=nut", "defect_type=crack", f"metric={metric}")
    assert only[1][1:] == expected[1][1:]


def test_an_anomalous_type_called_good_is_a_type_like_others() -> None:
    images = (
        ImageScore("n", "good", False, 0.0),
        ImageScore("a", "good", True, 1.0),
        ImageScore("b", "bent", True, -1.0),
    )
    assert of_type(images, "image_auroc", defect_type="good") == 1.0
    assert of_type(images, "image_auroc", defect_type="bent") == 0.0


def test_milliseconds_of_the_model_are_of_one_machine_which_is_named() -> None:
    # 0.5 s for 30 + 12 + 20 images
    arguments = ["metric=model_ms", "model=dfkde"]
    assert grid(TWO, *arguments)[1] == ("bolt", f"{500 / 62:.3f}")
    caption = caption_of(search(arguments, TWO, read=as_read), arguments)
    assert "`cores 2 · processor invented · system Linux x86_64`" in caption
    elsewhere = made("e", "nut", 2, machine={"system": "Darwin"})
    assert "machine (" in refusal([TWO[0], elsewhere], *arguments)
    assert len(grid([TWO[0], elsewhere])) == 4


def test_milliseconds_of_features_are_of_runs_that_took_none_from_the_cache() -> None:
    durations = {"features": 1.55, "model": 0.5, "extraction": 1.55}
    extracted = replace(TWO[0], record=replace(TWO[0].record, durations=durations))
    arguments = ["metric=features_ms,model_ms", "model=dfkde", "columns=metric"]
    assert grid([extracted, *TWO[1:]], *arguments)[1:3] == [
        ("bolt", "25", f"{500 / 62:.3f}"),
        ("nut", "–", f"{500 / 62:.3f}"),
    ]
    arguments = ["metric=features_ms", "model=dfkde"]
    caption = caption_of(search(arguments, TWO, read=as_read), arguments)
    assert "Features, ms per image: to extract" in caption
    assert "on `cores 2 · processor invented" in caption


def test_the_caption_traces_the_table() -> None:
    wide = made("w", draw=5, backbone="wide", weights_digest="cd" * 32)
    arguments = ["category=glob(bolt)", "columns=backbone"]
    caption = caption_of(search(arguments, [TWO[0], wide], read=as_read), arguments)
    assert caption.startswith("Image AUROC; `dataset=parts`, `model=dfkde`, ")
    for expected in (
        "`image_size=256`, `localizer=occlusion`, `model.n_components=16`",
        "`seed=42`, weights `abababababab` of tiny, weights `cdcdcdcdcdcd` of wide",
        "data `bolt00000000`, built by `nowhere:tiny`",
        "commit `c0ffeec0ff`; 2 runs on 2025-01-02",
        "by `python -m harness.report show 'category=glob(bolt)' columns=backbone`.",
    ):
        assert expected in caption


def test_undefined_metrics_and_pairs_of_keys() -> None:
    one = made("a")
    one = replace(one, record=replace(one.record, undefined={"aupro": "no masks"}, metrics={
        k: v for k, v in one.record.metrics.items() if k != "aupro"
    }))  # fmt: skip
    assert grid([one], "rows=dataset,category", "columns=metric")[:2] == [
        ("Dataset · Category", "Image AUROC", "Image F1", "Pixel AUROC", "Pixel AUPRO"),
        ("parts · bolt", auroc(1), f"{metrics(scores(1))['image_f1_max']:.3f}",
         f"{metrics(scores(1))['pixel_auroc']:.3f}", "n/a"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["markdown", "latex", "html", "csv"])
def test_names_are_words_in_every_format(kind: str) -> None:
    runs = [made("a", "<b>|&_"), made("b", "=1+1")]
    text = render(search([f"format={kind}"], runs, read=as_read), [])
    first = {"markdown": r"\<b\>\|\&\_", "latex": r"\textless{}b", "html": "&lt;b&gt;|&amp;_"}
    assert first.get(kind, "'=1+1,true") in text


def test_the_command_reads_a_store_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.tracking.outdated", lambda uri: None)
    monkeypatch.setattr("harness.tracking.read_runs", lambda uri: TWO)
    monkeypatch.setattr("harness.tracking.read_record", lambda run, uri: run.record)
    assert main(["show", "model=knn", "category=bolt", "--uri", "sqlite:///here.db"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"| Category | knn |\n| --- | ---: |\n| bolt | {auroc(5)} |\n")
    assert "by `python -m harness.report show model=knn category=bolt`." in printed
    assert main(["show", "model=x"]) == 1
    assert capsys.readouterr().err == "error: no finished run has model=x; there are dfkde, knn\n"


PAGE = """# Mine
<!-- show: model=knn category=bolt -->
old | text
<!-- /show -->
between
<!-- show: category=glob(*) model=dfkde -->
<!-- /show -->
"""


def test_a_page_is_filled_at_its_markers_and_again_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.tracking.outdated", lambda uri: None)
    monkeypatch.setattr("harness.tracking.read_runs", lambda uri: TWO)
    monkeypatch.setattr("harness.tracking.read_record", lambda run, uri: run.record)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert main(["show", "--fill", str(page)]) == 0
    filled = page.read_text()
    assert (
        f"category=bolt -->\n\n| Category | knn |\n| --- | ---: |\n| bolt | {auroc(5)} |" in filled
    )
    assert "\n<!-- /show -->\nbetween\n" in filled
    assert f"| nut | {auroc(2)} |" in filled
    assert "old" not in filled
    assert main(["show", "--fill", str(page)]) == 0
    assert page.read_text() == filled
    capsys.readouterr()
    for text, expected in (
        (PAGE.replace("<!-- /show -->\nbetween", "between"), "is not closed by <!-- /show -->"),
        ("# None\n", "must have markers `<!-- show: KEY=VALUE -->`"),
        (PAGE.replace("bolt", "bolts"), "no finished run has category=bolts"),
    ):
        page.write_text(text)
        assert main(["show", "--fill", str(page)]) == 1
        assert expected in capsys.readouterr().err
        assert page.read_text() == text
    assert main(["show", "--fill", str(page), "model=knn"]) == 1
    assert "--fill takes its KEY=VALUE from" in capsys.readouterr().err


def test_a_store_that_is_not_there_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_caption_says_how_many_images_were_left_out() -> None:
    runs = [
        made("a", "bolt", 1, official=False, n_left_out=3, n_duplicates=2),
        made("b", "nut", 2, official=False, n_duplicates=1),
        made("c", "pin", 3, official=False),
    ]
    caption = caption_of(search([], runs, read=as_read), [])
    assert "parts/bolt, images left out: 3, with the bytes of another one: 2." in caption
    assert "parts/nut, images with the bytes of another one: 1." in caption
    assert "parts/pin, images" not in caption
