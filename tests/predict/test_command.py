"""What `python -m harness.predict` promises."""

import contextlib
import csv
import errno
import json
import logging
import os
import pty
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from dfkde import PaDiM
from harness.config import ModelConfig
from harness.fitting import FOLDS, fit
from harness.predict import Predictor, reason_of
from harness.predict.__main__ import _FIELDS, main
from harness.predict.command import Row, _cells, _open_to_write, image_files
from harness.predict.drawing import with_contours
from harness.predict.predictor import trained
from tests.predict.conftest import BROKEN, TRUSTED, predict_command
from tests.saved import rewrite, touching, with_class

CENTROID = "tests.centroid:Centroid"
NAMES = ["0.png", "1.png", "2.png", "below/3.png"]


def rows(out):
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def model(detector, tmp_path):
    detector.save(tmp_path / "detector")
    return tmp_path / "detector"


@pytest.fixture
def arguments(model, images, tmp_path):
    return [
        f"model={model}",
        f"images={images}",
        f"out={tmp_path / 'out'}",
        f"cache={tmp_path / 'cache'}",
        f"trusted={TRUSTED}",
    ]


def test_scores_verdicts_and_a_row_for_the_broken_image(arguments, detector, images, tmp_path):
    ended = predict_command(*arguments)
    assert ended.returncode == 1
    assert ended.stderr == (  # no bar where there is no terminal
        "the threshold rests on 20 normal images: 1.8 to 21.6 % of other normal images may exceed"
        " it (90 % interval)\n"
    )
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert list(found) == sorted([*NAMES, BROKEN])
    predictor = Predictor(detector)
    threshold = np.sort(detector.train_scores)[18]  # of 20, at 0.95
    for name in NAMES:
        [expected] = predictor.predict([images / name])
        assert float(found[name]["score"]) == expected.score
        assert found[name]["verdict"] == ("normal", "anomalous")[int(expected.score > threshold)]
        assert found[name]["error"] == ""
        assert float(found[name]["percentile"]) == predictor.percentile(expected.score)
        assert float(found[name]["threshold"]) == threshold
    assert found[BROKEN]["percentile"] == found[BROKEN]["score"] == found[BROKEN]["verdict"] == ""
    assert found[BROKEN]["error"].startswith("cannot be decoded (")
    counts = [row["verdict"] for row in found.values()]
    assert f"{counts.count('anomalous')} anomalous, {counts.count('normal')} normal, 1 failed" in (
        ended.stdout
    )


def json_rows(out):
    """The rows of the JSON lines, by the bytes of their paths."""
    lines = (out / "predictions.jsonl").read_text(encoding="ascii").splitlines()
    found = [json.loads(line) for line in lines]
    return {os.fsencode(row.pop("path")): row for row in found}


def test_json_lines_are_the_table(arguments, images, tmp_path):
    """Whatever the bytes of a name: they come back from JSON as they are."""
    names = [*DANGEROUS, os.fsdecode(b"a\\udcff.png"), os.fsdecode(b"b\xe4\xff/\xf0.png")]
    for name in names:
        (images / name).parent.mkdir(exist_ok=True)
        shutil.copy(images / "0.png", images / name)
    assert main([*arguments, "heatmaps=false"]) == 1
    found = json_rows(tmp_path / "out")
    assert set(found) == {os.fsencode(name) for name in [*NAMES, BROKEN, *names]}
    by_path = {row["path"]: row for row in rows(tmp_path / "out")}
    for name in [*NAMES, BROKEN]:
        row, cells = found[name.encode()], by_path[name]
        assert list(row) == ["score", "percentile", "threshold", "verdict", "error"]
        for column in ("score", "percentile", "threshold"):
            assert repr(row[column]) == (cells[column] or "None")
        for column in ("verdict", "error"):
            assert (row[column] or "") == cells[column]
    assert all(found[os.fsencode(name)]["error"] is None for name in names)


def without(arguments, key):
    return [one for one in arguments if not one.startswith(f"{key}=")]


def test_one_file_whatever_its_name(arguments, images, tmp_path):
    (images / "0.png").rename(images / "part")
    given = [*without(arguments, "images"), f"images={images / 'part'}"]
    assert main(given) == 0
    [row] = rows(tmp_path / "out")
    assert row["path"] == "part"
    assert row["score"]
    assert (tmp_path / "out/heatmaps/part.png").is_file()


def test_several_folders_and_files(arguments, images, tmp_path):
    """Names are relative to the folder that all lie in; an image given twice counts once."""
    shutil.copytree(images, tmp_path / "other")
    given = [images / "below", tmp_path / "other" / "below", images / "0.png", images / "below"]
    places = [f"images={place}" for place in given]
    assert main([*without(arguments, "images"), *places]) == 0
    expected = ["images/0.png", "images/below/3.png", "other/below/3.png"]
    assert [row["path"] for row in rows(tmp_path / "out")] == expected
    assert all((tmp_path / f"out/heatmaps/{name}.png").is_file() for name in expected)


def test_maps_are_arrays_of_the_predictor(arguments, detector, images, tmp_path):
    assert main([*arguments, "maps=true", "heatmaps=false"]) == 1
    [expected] = Predictor(detector).predict([images / "below/3.png"], maps=True)
    found = np.load(tmp_path / "out/maps/below/3.png.npy", allow_pickle=False)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected.anomaly_map)
    assert not (tmp_path / "out/heatmaps").exists()


def test_contours_alone_leave_the_rest_of_the_image(arguments, detector, images, tmp_path):
    assert main([*arguments, "contours=true", "heatmaps=false", "quantile=0.5"]) == 1
    predictor = Predictor(detector)
    for name in NAMES:
        [one] = predictor.predict([images / name], maps=True)
        with Image.open(images / name) as image:
            before = np.asarray(image.convert("RGB"))
        threshold = predictor.map_threshold(0.5)
        expected = with_contours(before, one.anomaly_map, threshold=threshold)
        with Image.open(tmp_path / "out" / "heatmaps" / f"{name}.png") as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), expected)


def test_a_model_without_localizer_says_so(small_job, arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a process of its own
    trained(fit(replace(small_job, localizer="none"))).save(tmp_path / "none")
    given = [*arguments, f"model={tmp_path / 'none'}"]
    for key in ("maps", "contours"):
        assert main([*given, f"{key}=true"]) == 2
        rule = f"{key} must be false for a model with localizer=none, got true"
        assert rule in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert main(given) == 1
    assert "no heatmaps are drawn: the model has localizer=none\n" in capsys.readouterr().err
    assert not (tmp_path / "out/heatmaps").exists()


def test_a_model_that_makes_its_own_maps_draws_them(small_job, arguments, images, tmp_path):
    """Each fold is fitted once, for scores and maps together."""
    own = ModelConfig("padim", "dfkde.padim:PaDiM", {"n_features": 4}, {"tiny": ["features"]})
    fitted = fit(replace(small_job, model=own, localizer="none"))
    with patch.object(PaDiM, "fit", autospec=True, side_effect=PaDiM.fit) as fits:
        detector = trained(fitted)
    assert fits.call_count == FOLDS
    detector.save(tmp_path / "own")
    given = [*arguments, f"model={tmp_path / 'own'}", "contours=true", "maps=true"]
    assert main(given) == 1
    [expected] = Predictor(detector).predict([images / "0.png"], maps=True)
    found = np.load(tmp_path / "out/maps/0.png.npy", allow_pickle=False)
    np.testing.assert_array_equal(found, expected.anomaly_map)
    assert all((tmp_path / f"out/heatmaps/{name}.png").is_file() for name in NAMES)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_says_who_reads_what_is_written(arguments, images, tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        main([*arguments, "maps=true"])
    finally:
        os.umask(before)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 2 + 2 * len(NAMES)
    assert {path.stat().st_mode & 0o777 for path in written} == {mode}


def test_an_image_that_cannot_be_drawn_keeps_its_score(arguments, images, tmp_path):
    """The heatmap's place is taken by a file: no folder can be made there."""
    (tmp_path / "out" / "heatmaps").mkdir(parents=True)
    (tmp_path / "out" / "heatmaps" / "below").touch()
    (images / BROKEN).unlink()
    assert main(arguments) == 0
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert list(found) == NAMES
    assert all(float(row["score"]) and row["verdict"] for row in found.values())
    assert "no heatmap: " in found["below/3.png"]["error"]
    assert [found[name]["error"] for name in NAMES[:3]] == ["", "", ""]


LONG = {
    "a": f"{'a' * 251}.png",
    "ü": f"{'ü' * 125}.png",
    "part": f"{'b' * 213}.png",
    "fits": f"{'c' * 209}.png",
    "no UTF-8": os.fsdecode(b"\xff" * 251 + b".png"),
}


def test_the_heatmap_of_an_image_with_a_long_name_has_a_shorter_one(arguments, images, tmp_path):
    (images / BROKEN).unlink()
    for name in LONG.values():
        shutil.copy(images / "0.png", images / name)
    shutil.copy(images / "0.png", images / LONG["a"].replace("aa.", "ab."))  # alike at the start
    assert main(arguments) == 0
    drawn = {path.name for path in (tmp_path / "out/heatmaps").iterdir() if path.is_file()}
    assert len(drawn) == 3 + len(LONG) + 1
    assert f"{LONG['fits']}.png" in drawn
    rule = "its name is too long for its heatmap, "
    said = {row["error"].partition(rule)[2] for row in rows(tmp_path / "out")} - {""}
    assert len(said) == len(LONG)
    assert said <= drawn
    assert main(arguments) == 0
    assert {path.name for path in (tmp_path / "out/heatmaps").iterdir() if path.is_file()} == drawn


def test_a_png_with_a_damaged_comment_is_a_row_and_no_end(arguments, images, tmp_path):
    """libspng would read it and Pillow refuses it: the command follows one of them throughout."""
    comment = b"\0\0\0\7tEXtab\0defg\0\0\0\0"
    content = (images / "0.png").read_bytes()
    (images / "0.png").write_bytes(content[:33] + comment + content[33:])
    assert main(arguments) == 1
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert list(found) == sorted([*NAMES, BROKEN])
    assert found["0.png"]["error"].startswith("cannot be decoded (")
    assert found["1.png"]["score"]


OTHERS = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
    "gif": b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\1D\0;",
    "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf\0\0\0\x08free",
    # A TIFF of two images, the second without a size.
    "tiff": b"II*\0\x08\0\0\0\7\0"
    + b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (279, 1)]
    )
    + b"\x62\0\0\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_image_of_these_formats_is_a_row_and_no_end(arguments, images, tmp_path, kind):
    """Whatever it is called: it starts no other program, and the images after it are scored."""
    (images / "0.png").write_bytes(OTHERS[kind])
    assert main(arguments) == 1
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert list(found) == sorted([*NAMES, BROKEN])
    rule = "holds several images" if kind == "tiff" else "not an image: no PNG, JPEG, BMP, TIFF or"
    assert found["0.png"]["error"].startswith(f"cannot be decoded ({rule}")
    assert not found["0.png"]["score"]
    assert found["1.png"]["score"]


@pytest.mark.parametrize("place", ["out", "."])
def test_what_the_command_wrote_is_not_scored_the_next_time(arguments, images, place):
    inside = [*arguments, f"out={images / place}"]
    for _ in range(2):
        main(inside)
        assert [row["path"] for row in rows(images / place)] == sorted([*NAMES, BROKEN])


def test_heatmaps_have_the_size_of_their_images(arguments, images, tmp_path):
    main(arguments)
    drawn = tmp_path / "out" / "heatmaps"
    assert sorted(p.relative_to(drawn).as_posix() for p in drawn.rglob("*.png")) == [
        f"{name}.png" for name in NAMES
    ]
    for name in NAMES:
        with Image.open(images / name) as image, Image.open(drawn / f"{name}.png") as overlay:
            assert overlay.size == image.size


def test_the_heatmap_of_a_crop_leaves_the_rest_of_the_image_alone(
    small_job, arguments, images, tmp_path
):
    cropped = trained(fit(replace(small_job, center_crop=40)))
    # Values that every position exceeds, so that all of the map is drawn.
    replace(cropped, inputs=cropped.inputs | {"map_values": [-2e9, -1e9]}).save(tmp_path / "crop")
    main([*arguments, f"model={tmp_path / 'crop'}"])
    with Image.open(images / "0.png") as image:
        before = np.asarray(image.convert("RGB"))
    with Image.open(tmp_path / "out" / "heatmaps" / "0.png.png") as drawn:
        changed = (np.asarray(drawn) != before).any(axis=2)
    side = len(before)
    edge = side * 12 // 64
    centre = np.zeros_like(changed)
    centre[edge : side - edge, edge : side - edge] = True
    np.testing.assert_array_equal(changed, centre)


def test_on_a_terminal_there_is_a_progress_bar(arguments, monkeypatch):
    """The command's standard error is one end of a pseudo-terminal, the test reads the other."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(logging.root, "handlers", [])
    ours, theirs = pty.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 1000):
                shown.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        main([*arguments, "heatmaps=false"])
    reader.join()
    os.close(ours)
    text = b"".join(shown).decode()
    assert "the threshold rests on" in text
    assert "scoring" in text
    assert "100%" in text


def test_without_faults_the_status_is_zero(arguments, images, tmp_path, capsys):
    (images / BROKEN).unlink()
    assert main([*arguments, "heatmaps=false", "quantile=0.5"]) == 0
    assert "0.5 quantile of held-out scores" in capsys.readouterr().out
    assert not (tmp_path / "out" / "heatmaps").exists()


def test_a_lower_quantile_calls_more_images_anomalous(arguments, tmp_path):
    def anomalous(quantile):
        main([*arguments, "heatmaps=false", f"quantile={quantile}"])
        return {row["path"] for row in rows(tmp_path / "out") if row["verdict"] == "anomalous"}

    assert anomalous(1.0) <= anomalous(0.5) <= anomalous(0.001)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("quantile=1.5", "quantile must be above 0 and at most 1, got 1.5"),
        ("quantile=high", "quantile must be a number, got 'high'"),
        ("heatmaps=yes", "heatmaps must be true or false, got 'yes'"),
        ("images=nowhere", "images must be image files or folders, got 'nowhere'"),
        ("imgs=x", "'imgs=x' must be KEY=VALUE with a key of model, images, out"),
        ("model=no_such_run", "model: 'no_such_run' is neither a folder nor a run in sqlite"),
        ("device=tpu", "device must be one of auto, cpu, cuda, got 'tpu'"),
        ("engine=caffe", "engine must be one of"),
        ("model=.", "there is no detector in '.'"),
        ("trusted=centroid", "trusted must be names such as mymodule:Centroid,mynet:build, got 'c"),
        ("trusted=a:b,,c:d", "trusted must be names such as mymodule:Centroid,mynet:build, got 'a"),
    ],
)
def test_mistakes_end_before_any_image(arguments, mistake, message, tmp_path, capsys):
    assert main([*arguments, mistake]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_the_store_is_one_line(images, capsys):
    assert main([f"images={images}", "model=no_such_run", "tracking.uri=http://u:p@host"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: tracking.uri must hold no password, got http://")
    assert said.count("\n") == 1


@pytest.mark.parametrize("uri", ["http://nowhere", "no/address"])
def test_an_address_that_is_not_used_is_named(arguments, uri, caplog):
    main([*arguments, f"tracking.uri={uri}", "heatmaps=false"])
    assert "tracking.uri is not used: model is a folder" in caplog.text


def test_an_address_with_a_password_is_refused_though_it_is_not_used(arguments, capsys):
    assert main([*arguments, "tracking.uri=http://u:p@host"]) == 2
    assert capsys.readouterr().err.startswith("error: tracking.uri must hold no password")


def test_a_command_as_backbone_is_not_run(arguments, model, tmp_path):
    rewrite(model, touching(tmp_path / "marker"))
    ended = predict_command(*arguments)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: the detector in '{model}' asks for 'os:system', no model or backbone of this"
        " project, and what it names would run; if you trust that code, allow it by"
        f" trusted={TRUSTED},os:system on the command line or trusted=('{TRUSTED}', 'os:system')"
        " in Python\n"
    )
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [[], ["trusted="], ["trusted=[]"]])
def test_class_and_backbone_are_named_at_once(small_job, arguments, given, tmp_path, capsys):
    own = ModelConfig("centroid", CENTROID)
    trained(fit(replace(small_job, model=own))).save(tmp_path / "own")
    usual = without(arguments, "trusted")
    assert main([*usual, f"model={tmp_path / 'own'}", *given]) == 2
    assert f"allow it by trusted={CENTROID},{TRUSTED} on the" in capsys.readouterr().err


@pytest.mark.parametrize("given", [f"{CENTROID},{TRUSTED}", f"[{TRUSTED}, {CENTROID}]"])
def test_trusted_code_is_run(small_job, arguments, given, images, tmp_path):
    detector = trained(fit(replace(small_job, model=ModelConfig("centroid", CENTROID))))
    detector.save(tmp_path / "own")
    main([*arguments, f"model={tmp_path / 'own'}", f"trusted={given}", "heatmaps=false"])
    predictor = Predictor(detector)
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    for name in NAMES:
        [expected] = predictor.predict([images / name])
        assert float(found[name]["score"]) == expected.score


def test_trust_in_a_class_does_not_reach_another(arguments, model, capsys):
    rewrite(model, with_class("os:system"))
    assert main(arguments) == 2
    assert "asks for 'os:system', no model" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["model", "images"])
def test_what_must_be_given(arguments, key, capsys):
    assert main(without(arguments, key)) == 2
    assert capsys.readouterr().err == f"error: {key}= is missing; see --help\n"


def test_help_names_every_key(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"{key}=" in said for key in _FIELDS)


def test_a_folder_without_images(arguments, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([*arguments, f"images={tmp_path / 'empty'}"]) == 2
    assert "images must be folders with image files" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_the_table_is_a_file_and_no_way_to_another(arguments, tmp_path, capsys, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    if kind == "link":
        other.write_text("kept")
    make = {"pipe": os.mkfifo, "folder": os.mkdir}.get(kind, lambda path: path.symlink_to(other))
    make(out / "predictions.csv")
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        "error: out must have a regular file predictions.csv, no link, or none,"
        f" got '{out / 'predictions.csv'}'\n"
    )
    assert not other.exists() or other.read_text() == "kept"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_table_that_is_replaced_while_the_model_is_loaded(tmp_path, kind):
    """What is opened is checked again."""
    (tmp_path / "other").write_text("kept")
    path = tmp_path / "predictions.csv"
    path.symlink_to(tmp_path / "other") if kind == "link" else os.mkfifo(path)
    with pytest.raises((ValueError, OSError)):
        _open_to_write(path)
    assert (tmp_path / "other").read_text() == "kept"


def test_an_older_table_is_overwritten_to_its_end(arguments, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.csv").write_text("old,\n" * 1000)
    main([*arguments, "heatmaps=false"])
    assert [row["path"] for row in rows(tmp_path / "out")] == sorted([*NAMES, BROKEN])


def test_heatmaps_are_not_written_through_links(arguments, images, tmp_path):
    drawn, other = tmp_path / "out" / "heatmaps", tmp_path / "other"
    drawn.mkdir(parents=True)
    other.mkdir()
    (other / "kept").write_text("kept")
    (drawn / "below").symlink_to(other)
    (drawn / "0.png.png").symlink_to(other / "kept")
    os.mkfifo(drawn / "1.png.png")
    (images / BROKEN).unlink()
    assert main(arguments) == 0
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert found["below/3.png"]["error"] == (
        f"no heatmap: a folder of heatmaps must be no link, got '{drawn / 'below'}'"
    )
    assert found["below/3.png"]["score"]
    assert found["0.png"]["error"] == found["1.png"]["error"] == ""
    assert [path.name for path in other.iterdir()] == ["kept"]
    assert (other / "kept").read_text() == "kept"
    for name in NAMES[:3]:
        assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert not (drawn / f"{name}.png").is_symlink()


def test_a_linked_folder_of_heatmaps_is_refused(arguments, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "out" / "heatmaps").symlink_to(tmp_path / "other")
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        "error: out must have a folder heatmaps that is no link, or none,"
        f" got '{tmp_path / 'out'}'\n"
    )
    assert not any((tmp_path / "other").iterdir())


def test_out_itself_may_be_a_link(arguments, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "other")
    assert main(arguments) == 1
    assert {path.name for path in (tmp_path / "other").iterdir()} == {
        "heatmaps",
        "predictions.csv",
        "predictions.jsonl",
    }


@pytest.mark.parametrize("out", ["file", "file/below", "dangling"])
def test_out_is_no_file(arguments, tmp_path, capsys, out):
    """Refused before the model is looked for."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert main([*arguments, f"out={tmp_path / out}", "model=no_such_run"]) == 2
    assert capsys.readouterr().err == (
        f"error: out must be a folder, or a path where one can be made, got '{tmp_path / out}'\n"
    )


def test_whatever_has_the_name_of_an_image_has_a_row(arguments, images, tmp_path):
    os.mkfifo(images / "pipe.png")
    (images / "device.png").symlink_to("/dev/zero")
    (images / "dangling.png").symlink_to("nowhere")
    (images / "linked.png").symlink_to("0.png")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(images / "0.png", tmp_path / "elsewhere" / "a.png")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "below" / "loop").symlink_to(images)
    assert main([*arguments, "heatmaps=false"]) == 1
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    errors = {
        "pipe.png": "cannot be decoded (not a regular file)",
        "device.png": "cannot be decoded (not a regular file)",
        "dangling.png": "cannot be decoded (No such file or directory)",
        "below/loop": "cannot be listed (it is a link to a folder that it lies in)",
    }
    scored = ["linked.png", "linked/a.png"]
    assert list(found) == sorted([*NAMES, BROKEN, *errors, *scored], key=lambda n: n.split("/"))
    assert {name: found[name]["error"] for name in errors} == errors
    assert not any(found[name]["score"] for name in errors)
    assert {found[name]["score"] for name in scored} == {found["0.png"]["score"]}


def test_a_folder_that_cannot_be_listed_has_a_row(arguments, images, tmp_path, monkeypatch, capsys):
    real = os.scandir

    def refuse(path):  # root may list anything, so that chmod would not do
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("harness.predict.command.os.scandir", refuse)
    closed = images / "below"
    assert main([*arguments, "heatmaps=false"]) == 1
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert list(found) == sorted([*NAMES[:3], BROKEN, "below"])
    assert found["below"]["error"] == "cannot be listed (Permission denied)"
    capsys.readouterr()
    closed = images
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"error: images must be folders that can be listed, got '{images}'\n"
    )


@pytest.mark.parametrize(
    "name", ["._a.png", ".hidden.png", "@eaDir/a.png", "__MACOSX/a.png", ".thumbnails/a.png"]
)
def test_hidden_files_are_no_images(images, tmp_path, name):
    (images / name).parent.mkdir(exist_ok=True)
    shutil.copy(images / "0.png", images / name)
    found = image_files([images], without=tmp_path / "out")
    assert [one.name.as_posix() for one in found] == sorted([*NAMES, BROKEN])


DANGEROUS = {
    "=HYPERLINK(1).png": "./=HYPERLINK(1).png",
    "@a.png": "./@a.png",
    "-a.png": "./-a.png",
    "+b/a.png": "./+b/a.png",
    "\ttab.png": "./\ttab.png",
    "x;=cmd|' C calc'!A0;.png": "x;=cmd|' C calc'!A0;.png",
    "x\t=cmd.png": "x\t=cmd.png",
    "two\nlines,\r.png": "two\nlines,\r.png",
    "\x1b[2J.png": "\x1b[2J.png",
    "a\udcff.png": "a\\udcff.png",
}


def test_names_of_images_are_paths_and_no_formulas(arguments, images, tmp_path):
    """A program opens what the first column says; bytes that are no text are escaped."""
    for name in DANGEROUS:
        (images / name).parent.mkdir(exist_ok=True)
        shutil.copy(images / "0.png", images / name)
    assert main([*arguments, "heatmaps=false"]) == 1
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert set(found) == {*NAMES, BROKEN, *DANGEROUS.values()}
    content = (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8")
    for separator in ";\t":  # of other programs and countries
        cells = [line[0] for line in csv.reader(content.splitlines(), delimiter=separator) if line]
        assert not any(cell.startswith("=") for cell in cells)
        assert f"x{separator}=cmd" in "\n".join(cells)
    for name, written in DANGEROUS.items():
        assert found[written]["score"] == found["0.png"]["score"]
        if "\udcff" in name:
            assert found[written]["error"] == (
                "its name is not valid UTF-8, and escaped here; predictions.jsonl has its bytes"
            )
        else:
            assert found[written]["error"] == ""
            assert (images / written).samefile(images / name)


def test_errors_of_images_are_words(arguments, images, tmp_path):
    name = images / "two  spaces\n.png"
    (images / BROKEN).rename(name)
    main([*arguments, "heatmaps=false"])
    [error] = [row["error"] for row in rows(tmp_path / "out") if row["error"]]
    assert error.startswith("cannot be decoded (")
    reason = reason_of(ValueError(f"{name}: =cmd\x1b[2J\n\u202ex"), name)
    assert reason == "=cmd\\x1b[2J \\u202ex"
    assert _cells(Row(name, None, None, 1.0, None, reason))[-1] == f"'{reason}"


def test_what_a_detector_says_is_shown(arguments, model, monkeypatch, capsys):
    """The libraries that it was trained with are in its file."""

    def change(state, arrays):
        state["inputs"]["versions"] = ["torch\x1b[2J\nerror: x"]
        state["inputs"]["engine"] = "e\x1b]0;title\x07\nerror: y"

    rewrite(model, change)
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a process of its own
    main([*arguments, "engine=torch", "heatmaps=false"])
    lines = capsys.readouterr().err.split("\n")
    assert any("e\\x1b]0;title\\x07\\nerror: y" in line for line in lines)
    assert all(line.isprintable() and not line.startswith("error") for line in lines)
