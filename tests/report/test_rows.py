"""A report adds and replaces rows; nothing that is published goes away by itself."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from harness.metrics import image_average_precision
from harness.record import Record, StoredRun
from harness.report.__main__ import main
from harness.report.declaration import ReportError, read_table
from harness.report.publish import averages_of, check, publish
from harness.report.results import public, read_results
from harness.tracking import StoreError
from tests.report.synthetic import complete, failed, maskless, record, run, sweep

ROOT = Path(__file__).parents[2]
LATER = "2025-02-01T00:00:00Z"


def texts(root: Path) -> dict[str, bytes]:
    """Every file of a checkout."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def ids(root: Path, table: str = "parts_tiny") -> list[str]:
    return [row.run_id for row in read_results(root / "results", table).rows]


def lost(run_id: str, category: str, error: str = "DataError: dataset.root") -> StoredRun:
    """A run that failed before its data were known."""
    empty = record(category, official=False, metrics={}, scores=(), weights_digest="")
    return run(run_id, empty, status="failed", error=error, started=LATER)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command on runs that need no store."""

    def command(root: Path, runs: Sequence[StoredRun], *options: str) -> int:
        monkeypatch.setattr("harness.tracking.read_runs", lambda uri: list(runs))
        monkeypatch.setattr("harness.tracking.outdated", lambda uri: None)
        monkeypatch.setattr("harness.tracking.read_record", lambda run, uri: run.record)
        return main(["--root", str(root), *options])

    return command


def test_a_store_without_the_runs_changes_no_byte(swept: Path) -> None:
    before = texts(swept)
    assert publish(swept, []) == ([], [])
    assert texts(swept) == before


def test_two_people_publish_from_two_stores(checkout: Path, swept: Path, tmp_path: Path) -> None:
    """In any order, their tables are those that one store with all runs gives."""
    parts, cells = [[r for r in sweep() if r.record.dataset == d] for d in ("parts", "cells")]
    other = Path(shutil.copytree(checkout, tmp_path / "other"))
    for root, first, second in ((checkout, parts, cells), (other, cells, parts)):
        publish(root, first)
        publish(root, second)
        assert texts(root) == texts(swept)


def test_a_merge_that_left_marks_is_named(published: Path) -> None:
    for name, problem in (
        ("environment.json", "is not JSON: .*; of a merge, keep"),
        ("averages.csv", "averages.csv:2 is not a line of averages"),
        ("parts_tiny.csv", "has schema <<<<<<< ours"),
    ):
        path = published / "results" / name
        text = path.read_text()
        head, rest = text.split("\n", 1)
        path.write_text(f"{head}\n<<<<<<< ours\n{rest}")
        with pytest.raises(ReportError, match=problem):
            publish(published, [])
        path.write_text(text)


def test_averages_are_the_same_under_every_version_of_python(published: Path) -> None:
    """Python 3.12 adds floats otherwise than 3.11; the sum of their fractions is exact."""
    values = (0.1, 0.2, 0.3)
    held = read_results(published / "results", "parts_tiny")
    pairs = zip(held.rows, values, strict=True)
    rows = [replace(row, metrics={"image_auroc": value}) for row, value in pairs]
    [average] = averages_of(read_table(published / "conf", "parts_tiny"), rows).values()
    assert average.value == float(sum(map(Fraction, values))) / len(values)


def test_averages_of_a_merge_are_made_again(published: Path) -> None:
    before = texts(published)
    path = published / "results" / "averages.csv"
    path.write_text(path.read_text().split("\n")[0] + "\n")
    with pytest.raises(
        ReportError, match=r"results/parts_tiny.csv, its scores or averages are not"
    ):
        check(published)
    publish(published, [])
    assert texts(published) == before


def test_scores_that_are_not_those_of_a_kept_row_refuse_its_table(published: Path) -> None:
    """Where the store has its run, they are written again."""
    before, path = texts(published), published / "results/scores/parts_tiny.csv"
    path.write_text(re.sub(r"(bolt.*,3\.\d+)", r"\g<1>5", path.read_text(), count=1))
    damaged = texts(published)
    runs = [run("m", maskless("mono", 4))]
    _, [refusal] = publish(published, runs, only=["parts_tiny"])
    assert refusal.startswith("results/scores/parts_tiny.csv: parts/bolt of run r-bolt: its ")
    assert texts(published) == damaged
    assert publish(published, complete()) == ([], [])
    assert texts(published) == before


def test_what_is_published_of_a_table_that_is_none_any_more_stays(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiments = published / "conf/experiment"
    text = (experiments / "parts_tiny.yaml").read_text()
    for name in ("parts_tiny", "mine"):
        (experiments / f"{name}.yaml").write_text(
            f"{text}      image_size: 1,2\n      n_train: 3,4\n"
        )
    before = texts(published)
    _, [refusal] = publish(published, [run("m", maskless("mono", 4))])
    assert "parts_tiny.yaml sweeps image_size, n_train; a table shows one setting" in refusal
    after = texts(published)
    changed = {name for name in after if after[name] != before.get(name)}
    scores = "results/scores/cells_small.csv"
    assert changed <= {"README.md", "results/cells_small.csv", scores, "results/averages.csv"}
    assert before["results/averages.csv"].splitlines()[1:]
    assert set(before["results/averages.csv"].splitlines()) <= set(
        after["results/averages.csv"].splitlines()
    )
    assert main(["--root", str(published), "--check"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {refusal}\n")


def test_a_store_that_goes_away_while_scores_are_read_changes_nothing(
    published: Path, monkeypatch: pytest.MonkeyPatch, report: Callable[..., int], capsys: Any
) -> None:
    def gone(*_: object) -> Record:
        raise StoreError("tracking.uri=http://h: gone")

    before = texts(published)
    report(published, [])
    monkeypatch.setattr("harness.tracking.read_record", gone)
    monkeypatch.setattr("harness.tracking.read_runs", lambda uri: [run("new", CAP, started=LATER)])
    capsys.readouterr()
    assert main(["--root", str(published)]) == 1
    assert capsys.readouterr().err == "error: tracking.uri=http://h: gone\n"
    assert texts(published) == before


def test_a_newer_run_replaces_its_row_alone(published: Path) -> None:
    before = read_results(published / "results", "parts_tiny")
    new = run("new", record("cap", 4), started=LATER, commit="d" * 40)
    notes, refusals = publish(published, [new])
    assert notes == [
        "parts_tiny: cap of run r-cap is replaced by run new; changed: commit, identity,"
        " data_fingerprint, scores_digest"
    ]
    assert not refusals
    after = read_results(published / "results", "parts_tiny")
    assert after.rows[::2] == before.rows[::2]
    assert after.scores == before.scores | {"cap": new.record.scores}
    fresh = Path(shutil.copytree(Path(__file__).parent / "checkout", published / "fresh"))
    publish(fresh, [*complete(), new])
    assert texts(fresh)["results/averages.csv"] == texts(published)["results/averages.csv"]
    assert check(published) == ""


def test_the_same_run_again_changes_no_byte(published: Path) -> None:
    before = texts(published)
    assert publish(published, complete()) == ([], [])
    assert texts(published) == before


@pytest.mark.parametrize(
    "other",
    [
        run("old", record("cap", 4), started="2024-01-01T00:00:00Z"),
        failed("broken", "cap", "OSError: no memory", started=LATER),
        lost("typo", "cap"),
    ],
    ids=["older", "failed", "lost"],
)
def test_what_is_older_or_failed_replaces_nothing(published: Path, other: StoredRun) -> None:
    before = texts(published)
    assert publish(published, [other]) == ([], [])
    assert texts(published) == before


def test_a_failed_row_gives_way_to_a_finished_run(checkout: Path) -> None:
    publish(checkout, [failed("early", "cap", "OSError: no memory", started=LATER)])
    assert "| cap | failed |" in (checkout / "README.md").read_text()
    publish(checkout, complete())
    assert ids(checkout) == ["r-bolt", "r-cap", "r-01"]


def test_runs_that_failed_before_their_data_were_known_are_told_in_one_line(
    checkout: Path,
) -> None:
    publish(checkout, complete()[:1])
    before = texts(checkout)
    runs = [lost(f"f{n}", name) for n, name in enumerate(("bolt", "cap", "01", "01"))]
    notes, _ = publish(checkout, runs)
    assert notes == ["3 failed runs of parts_tiny not shown: DataError: dataset.root"]
    assert texts(checkout) == before


def declare(root: Path, text: str) -> None:
    path = root / "conf/experiment/parts_tiny.yaml"
    path.write_text(path.read_text().replace("\nhydra:", f"\n{text}\nhydra:"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda root: declare(root, "image_size: 128"), "image_size=256, declared is 128"),
        (lambda root: declare(root, "seed: 7"), "category=bolt with seed=42 is not declared"),
        (
            lambda root: (root / "conf/model/dfkde.yaml").write_text(
                "{name: dfkde, factory: 'my:Own', params: {n_components: 16}}"
            ),
            "its model was built by dfkde:DFKDE, and conf/experiment/parts_tiny.yaml declares"
            " my:Own",
        ),
    ],
)
def test_a_changed_declaration_leaves_the_table_untouched(
    published: Path, change: Callable[[Path], object], problem: str
) -> None:
    change(published)
    before = texts(published)
    with pytest.raises(ReportError, match=re.escape(problem)):
        check(published)
    _, [refusal] = publish(published, complete())
    assert "results/parts_tiny.csv: bolt of run r-bolt" in refusal
    assert problem in refusal
    assert refusal.endswith("python -m harness.report --replace parts_tiny")
    assert texts(published) == before


def test_rows_of_schema_2_are_kept(published: Path) -> None:
    path = published / "results/parts_tiny.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    old = [name for name in lines[0] if not name.endswith("_factory")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, old, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**line, "schema": "2"} for line in lines)
    new = run("new", record("cap", 4), started=LATER)
    publish(published, [new])
    rows = read_results(published / "results", "parts_tiny").rows
    assert [(row.schema, row.run_id) for row in rows] == [(2, "r-bolt"), (3, "new"), (2, "r-01")]


def other_weights() -> StoredRun:
    return run("new", record("cap", 4, weights_digest="cd" * 32), started=LATER)


def test_replace_publishes_the_new_runs_alone(
    swept: Path, report: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = texts(swept)
    assert report(swept, [other_weights()]) == 1
    assert "error: parts_tiny mixes 2 sets of weights" in capsys.readouterr().err
    assert texts(swept) == before
    assert report(swept, [other_weights()], "--replace", "parts_tiny") == 0
    assert capsys.readouterr().err.splitlines() == [
        "parts_tiny: bolt of run r-bolt is no longer shown",
        "parts_tiny: cap of run r-cap is replaced by run new; changed: identity, data_fingerprint,"
        " scores_digest",
        "parts_tiny: 01 of run r-01 is no longer shown",
    ]
    assert ids(swept) == ["new"]
    assert list(read_results(swept / "results", "parts_tiny").scores) == ["cap"]
    assert check(swept) == ""
    others = {name for name in before if "parts_tiny" in name or "README" in name}
    others |= {"results/averages.csv", "results/environment.json"}
    assert all(texts(swept)[name] == before[name] for name in before if name not in others)


def test_replace_names_a_table_that_is_not_there(swept: Path, report: Callable[..., int]) -> None:
    before = texts(swept)
    assert report(swept, [], "--replace", "part") == 1
    assert texts(swept) == before


def test_remove_missing_lists_what_goes(
    published: Path, report: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(published, complete()[:2], "--remove-missing") == 0
    err = capsys.readouterr().err
    assert err == "parts_tiny: 01 of run r-01 is no longer shown\n"
    assert ids(published) == ["r-bolt", "r-cap"]
    assert report(published, [], "--remove-missing") == 0
    assert not (published / "results/scores/parts_tiny.csv").exists()
    assert check(published) == ""


def test_scores_go_with_their_rows(published: Path) -> None:
    stray = [published / "results/scores" / name for name in ("cells_small.csv", "gone.csv")]
    for path in stray:
        path.write_text("category,image,defect_type,anomalous,score\n")
        with pytest.raises(ReportError, match=f"{path.name} has the scores of no published row"):
            check(published)
        notes, _ = publish(published, [])
        assert notes == [f"{path}: no published row has these scores; the file is removed"]
        assert check(published) == ""


def test_an_experiment_without_a_marker_costs_nothing(checkout: Path) -> None:
    """Its rows are kept in `results/`, which has no file of it before it has one."""
    publish(checkout, complete())
    pages = {name: text for name, text in texts(checkout).items() if name.endswith(".md")}
    text = (checkout / "conf/experiment/parts_wide.yaml").read_text()
    (checkout / "conf/experiment/mine.yaml").write_text(text)
    (checkout / "conf/experiment/broken.yaml").write_text("defaults: [override /backbone: no]")
    assert publish(checkout, complete()) == ([], [])
    assert not (checkout / "results/mine.csv").exists()
    assert check(checkout) == ""
    assert main(["--root", str(checkout), "html", "--output", str(checkout / "page.html")]) == 0
    wide = {"backbone": "wide", "weights_digest": "cd" * 32}
    assert publish(checkout, [run("w", record("cap", 5, **wide))], only=["mine"]) == ([], [])
    assert ids(checkout, "mine") == ["w"]
    assert {name: texts(checkout)[name] for name in pages} == pages
    assert check(checkout) == ""


def changed(of: Record, **metrics: float) -> StoredRun:
    return run("new", replace(of, metrics=of.metrics | metrics), started=LATER)


CAP = record("cap", 4)
PRECISION = image_average_precision(
    [image.anomalous for image in CAP.scores], [image.score for image in CAP.scores]
)
TIED = 0.9375


def beside(name: str, value: float, kept: object, of: str) -> str:
    return f"its {name} is {value!r}, and {kept!r} by its {of}"


@pytest.mark.parametrize(
    ("edited", "kept", "problem"),
    [
        (
            changed(CAP, image_auroc=0.999),
            CAP,
            beside("image_auroc", 0.999, CAP.metrics["image_auroc"], "scores"),
        ),
        (
            changed(CAP, image_auroc=float(f"{CAP.metrics['image_auroc']:.15f}") + 2**-53),
            CAP,
            "its image_auroc is",
        ),
        (
            changed(CAP, image_f1_max=0.5),
            CAP,
            beside("image_f1_max", 0.5, CAP.metrics["image_f1_max"], "scores"),
        ),
        (
            changed(CAP, image_average_precision=1.0),
            CAP,
            beside("image_average_precision", 1.0, PRECISION, "scores"),
        ),
        (
            changed(CAP, aupro=TIED),
            CAP,
            beside("aupro", TIED, CAP.metrics["aupro"], "record"),
        ),
        (
            run("new", CAP, started=LATER),
            replace(CAP, scores=CAP.scores[:-1]),
            beside("n_test_normal", 12, 11, "scores"),
        ),
        (
            run("new", CAP, started=LATER),
            replace(CAP, scores=()),
            beside("n_test_normal", 12, 0, "scores"),
        ),
        (
            run("new", CAP, started=LATER),
            replace(CAP, scores=(CAP.scores[0]._replace(score=float("nan")), *CAP.scores[1:])),
            "its scores must be finite, got nan at index 0",
        ),
    ],
)
def test_a_run_whose_numbers_are_not_those_of_its_scores_is_refused(
    published: Path, edited: StoredRun, kept: Record, problem: str
) -> None:
    """The row that it would replace stays, and so does an older run that is whole."""
    before = texts(published)
    [note], refusals = publish(published, [edited], read=lambda run: kept)
    assert note.startswith(f"parts_tiny: run new of cap is refused, {problem}")
    assert not refusals
    assert texts(published) == before


def test_scores_that_cannot_be_read_refuse_their_run(published: Path) -> None:
    def read(of: StoredRun) -> Record:
        if of.run_id == "new":
            raise ValueError("its scores.csv cannot be read: OSError: gone")
        return of.record

    runs = [run("new", CAP, started=LATER), run("s", record("cap", 5))]
    notes, _ = publish(published, runs, read=read)
    assert "run new of cap is refused, its scores.csv cannot be read: OSError: gone" in notes[0]
    assert ids(published) == ["r-bolt", "s", "r-01"]


def test_many_refused_runs_are_one_line(checkout: Path) -> None:
    runs = [run(f"u{n}", record("cap", official=False)) for n in range(30)]
    [note], _ = publish(checkout, runs)
    assert note.startswith("parts_tiny: run u9 of cap is refused, its data are not")
    assert note.endswith("; so are 29 more")


PLACES = [
    "/home/ann/data/mvtec",
    "/home/Ann Lee/my data/mvtec",
    "C:\\Users\\ann\\mvtec",
    "\\\\server7\\ann\\mvtec",
    "~ann/mvtec",
    "~/ann/mvtec",
    "../../ann/mvtec",
    "sqlite:////home/ann/mvtec",
    "http://ann:pw@server7:5000/mvtec",
    "ann@server7",
    "HTTPConnectionPool(host='server7', port=80): mvtec",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("OSError: {}/cap/test/bent/003.png is truncated", True),
        ("DataError: '{}' (dataset.root) is no folder", False),
        ("DataError: dataset.root={}", False),
        ("A: see {} and {}/cap/x and {}", False),
    ],
)
def test_no_place_of_a_machine_is_published(
    checkout: Path, place: str, message: str, kept: bool
) -> None:
    publish(checkout, [failed("f", "cap", message.replace("{}", place))])
    for name, content in texts(checkout).items():
        if not name.startswith("conf"):
            assert not re.search(rb"ann|Lee|server7|home|Users", content)
    [row] = read_results(checkout / "results", "parts_tiny").rows
    assert row.error.startswith(message.split(":")[0])
    assert row.error.endswith("cap/test/bent/003.png is truncated") is kept


@pytest.mark.parametrize(
    "message",
    ["ValueError: n_train must be 1/2 of 3 / 4 and/or null", "MemoryError: cap/test/1.png"],
)
def test_an_error_without_a_place_is_published_as_it_is(message: str) -> None:
    assert public(message, "cap") == message


def test_no_place_of_a_machine_is_in_this_project() -> None:
    text = json.dumps(json.loads((ROOT / "results/environment.json").read_text()))
    for path in (ROOT / "results").rglob("*.csv"):
        text += path.read_text() if "published" not in path.name else ""
    assert not re.search(r"(?<![\w.])/\w|~/|[A-Z]:\\|://|\bhost\b|\w@\w", text)
    machines = json.loads((ROOT / "results/environment.json").read_text())["environments"]
    assert {key for m in machines.values() for key in m["machine"]} <= {
        "cores", "processor", "system",
    }  # fmt: skip


def calls_until_none_fails(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> Iterator[list[int]]:
    """Let the first call fail, then the second, and so on."""
    whole = getattr(owner, name)
    for number in range(100):
        left = [number]

        def fails(*arguments: object, left: list[int] = left) -> object:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(28, "No space left on device", str(arguments[0]))
            return whole(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            yield left


@pytest.mark.parametrize(("owner", "name"), [(Path, "write_bytes"), (os, "replace")])
def test_a_file_that_cannot_be_written_changes_nothing(
    published: Path,
    report: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: object,
    name: str,
) -> None:
    (published / "results/scores/gone.csv").write_text("")  # to be removed
    before = texts(published)
    runs = [run("new", CAP, started=LATER), run("m", maskless("mono", 4))]
    for left in calls_until_none_fails(monkeypatch, owner, name):
        status = report(published, runs)
        if left[0] >= 0:  # none has failed
            break
        assert (status, texts(published)) == (1, before)
        error = capsys.readouterr().err
        assert error.startswith("error: [Errno 28] No space left on device: ")
        assert error.endswith("; nothing has been changed\n")
    assert status == 0
    assert check(published) == ""
    assert not [name for name in texts(published) if name.endswith(".part") or "gone" in name]


def test_a_disk_that_takes_small_files_only(published: Path) -> None:
    before = texts(published)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            publish(published, [run("new", CAP, started=LATER)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert texts(published) == before


def test_settings_that_a_row_has_from_elsewhere_are_named(published: Path) -> None:
    path = published / "results/parts_tiny.csv"
    path.write_text(path.read_text().replace(",256,", ",255,"))
    with pytest.raises(ReportError, match="image_size=255, declared is 256"):
        check(published)
