"""Which edits of which files change the digest of a job's code, and which do not."""

from __future__ import annotations

import ast
import shutil
import sys
import threading
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from harness import provenance
from harness.config import ModelConfig
from harness.experiment import evaluate

ROOT = Path(__file__).resolve().parent.parent
MODELS = {
    "dfkde": "dfkde.density:DFKDE",
    "dfkde_residual": "dfkde.density:DFKDEResidual",
    "knn": "dfkde.baselines:KNN",
}
COMPILED = f"fast{EXTENSION_SUFFIXES[0]}"


@pytest.fixture(autouse=True)
def _fresh():
    yield
    forget()


def forget():
    """Let the next digest be the first one of a process."""
    provenance._read.cache_clear()
    provenance._walk.cache_clear()


def digest(job):
    """The digest that a new process would find."""
    forget()
    return provenance.code_digest(job)


def of_model(job, factory):
    return replace(job, model=replace(job.model, factory=factory))


def of_backbone(job, factory):
    return replace(job, backbone=replace(job.backbone, factory=factory))


@pytest.fixture(scope="module")
def _copied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name in ("dfkde", "harness"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture
def project(_copied, monkeypatch):
    """A copy of the project that imports would find; edits of it are undone."""
    monkeypatch.syspath_prepend(_copied)
    before = {path: path.read_bytes() for path in _copied.rglob("*.py")}
    yield _copied
    for path, content in before.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def edit(path, change):
    text = path.read_text(encoding="utf-8")
    changed = change(text)
    assert changed != text
    path.write_text(changed, encoding="utf-8")


@pytest.mark.parametrize(
    "file",
    [
        "dfkde/base.py",
        "dfkde/density.py",
        "dfkde/localizers.py",
        "harness/data/readers.py",
        "harness/experiment.py",
        "harness/features/inputs.py",
        "harness/fitting.py",
        "harness/metrics/ranks.py",
        "harness/metrics/pixel.py",
        "harness/system/threads.py",
    ],
)
def test_code_that_computes_counts(job, project, file):
    before = digest(job)
    edit(project / file, lambda text: text.replace(" - ", " + ") + "\nadded = 1\n")
    assert digest(job) != before


def test_a_sign_counts(job, project):
    before = digest(job)
    edit(project / "dfkde/base.py", lambda text: text.replace("return -self", "return +self"))
    assert digest(job) != before


@pytest.mark.parametrize(
    "file",
    [
        "dfkde/__init__.py",
        "dfkde/baselines.py",
        "dfkde/trained.py",
        "dfkde/backbones/timm.py",
        "harness/charts.py",
        "harness/gallery.py",
        "harness/metrics/__init__.py",
        "harness/predict/predictor.py",
        "harness/report/results.py",
        "harness/run.py",
        "harness/tracking/tracker.py",
        "harness/sweep/task.py",
    ],
)
def test_code_that_computes_no_number_of_the_job_does_not_count(job, project, file):
    before = digest(job)
    edit(project / file, lambda text: text + "\nadded = 1\n")
    assert digest(job) == before


def test_each_model_has_its_own_code(job, project):
    jobs = {name: of_model(job, factory) for name, factory in MODELS.items()}
    before = {name: digest(job) for name, job in jobs.items()}
    assert len(set(before.values())) == 3
    edit(project / "dfkde/baselines.py", lambda text: text + "\nadded = 1\n")
    changed = {name for name, job in jobs.items() if digest(job) != before[name]}
    assert changed == {"knn"}


def test_lazy_name_counts_as_the_module_it_is_taken_from(job, project):
    lazy = of_model(job, "dfkde:DFKDE")
    before = digest(lazy)
    edit(project / "dfkde/baselines.py", lambda text: text + "\nadded = 1\n")
    assert digest(lazy) == before
    edit(project / "dfkde/density.py", lambda text: text + "\nadded = 1\n")
    assert digest(lazy) != before


def test_comments_docstrings_and_layout_do_not_count_nor_does_the_place(job, project, monkeypatch):
    before = digest(job)
    for path in project.rglob("*.py"):
        edit(path, lambda text: f"# A comment.\n\n{text}")
    assert digest(job) == before
    for path in project.rglob("*.py"):
        edit(path, in_another_layout)
    assert digest(job) == before
    monkeypatch.undo()
    assert digest(job) == before


def in_another_layout(text):
    """The same code with other docstrings, on long lines, with single quotes, without comments."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant("Other words.")
    return ast.unparse(tree)


LAYOUTS = {
    "file beside it": (
        {"mine": "import helper", "helper": "import deeper", "deeper": "", "other": ""},
        "mine:Model",
        {"mine", "helper", "deeper"},
    ),
    "import inside a function": (
        {"mine": "def f():\n    if 1:\n        from helper import g", "helper": "g = 1"},
        "mine:Model",
        {"mine", "helper"},
    ),
    "types alone": (
        {
            "mine": "if TYPE_CHECKING:\n    import one\nelse:\n    import two",
            "one": "",
            "two": "",
        },
        "mine:Model",
        {"mine", "one", "two"},
    ),
    "cycle": ({"a": "import b", "b": "import a"}, "a:Model", {"a", "b"}),
    "star": (
        {"mine": "from pkg.names import *", "pkg/__init__": "", "pkg/names": "import os.path"},
        "mine:Model",
        {"mine", "pkg/__init__", "pkg/names"},
    ),
    "package that re-exports": (
        {
            "pkg/__init__": "from .a import Model\nfrom .b import Other\nfrom .c import *",
            "pkg/a": "from . import d\nfrom .e import x",
            **{f"pkg/{name}": "x = 1" for name in "bcde"},
        },
        "pkg:Model",
        {"pkg/__init__", *(f"pkg/{name}" for name in "abcde")},
    ),
    "star of a package": (
        {
            "pkg/__init__": "from .a import *\nfrom .b import *",
            "pkg/a": "Model = 1",
            "pkg/b": "Other = 1",
        },
        "pkg:Model",
        {"pkg/__init__", "pkg/a", "pkg/b"},
    ),
    "package that changes what it passes on": (
        {
            "pkg/__init__": "from .a import Model\nfrom . import patch",
            "pkg/a": "",
            "pkg/patch": "from .constants import K",
            "pkg/constants": "K = 1",
            "pkg/other": "",
        },
        "pkg.a:Model",
        {"pkg/__init__", "pkg/a", "pkg/patch", "pkg/constants"},
    ),
    "import by a call": (
        {
            "mine": "import importlib\nh = importlib.import_module('helper')\n__import__('second')",
            "helper": "",
            "second": "",
            "pkg/__init__": "",
            "other": "",
        },
        "mine:Model",
        {"mine", "helper", "second"},
    ),
    "import by a call from a package": (
        {
            "pkg/__init__": "def __getattr__(name): return import_module('.a', __name__)",
            "pkg/a": "",
            "pkg/b": "",
        },
        "pkg:Model",
        {"pkg/__init__", "pkg/a"},
    ),
    "class within a class": (
        {"mine": "import helper", "helper": "", "other": ""},
        "mine.Outer.Model",
        {"mine", "helper"},
    ),
    "lazy package": (
        {
            "pkg/__init__": "import typing as t\nif t.TYPE_CHECKING:\n    from pkg.a import Model\n"
            "    from pkg.b import Other\ndef __getattr__(name): ...",
            "pkg/a": "",
            "pkg/b": "",
        },
        "pkg:Model",
        {"pkg/__init__", "pkg/a", "pkg/b"},
    ),
    "name of the package itself": (
        {"mine": "from pkg import x", "pkg/__init__": "from .a import x\nx = x + 1", "pkg/a": ""},
        "mine:Model",
        {"mine", "pkg/__init__", "pkg/a"},
    ),
    "package as a whole": (
        {"mine": "import pkg.b", "pkg/__init__": "from .a import x", "pkg/a": "", "pkg/b": ""},
        "mine:Model",
        {"mine", "pkg/__init__", "pkg/a", "pkg/b"},
    ),
    "package without a file": (
        {"space/a": "from space import b", "space/b": "", "space/c": "", "top": ""},
        "space.a:Model",
        {"space/a", "space/b"},
    ),
    "package and what lies beside it": (
        {"pkg/__init__": "", "pkg/a": "import helper", "helper": "", "other": ""},
        "pkg.a.Model",
        {"pkg/__init__", "pkg/a", "helper"},
    ),
    "two names of one import": (
        {
            "mine": "import a as x, b.c as y",
            "a": "",
            "b/__init__": "",
            "b/c": "import d",
            "d": "",
        },
        "mine:Model",
        {"mine", "a", "b/__init__", "b/c", "d"},
    ),
    "no valid Python": ({"mine": "import helper; def", "helper": ""}, "mine:Model", {"mine"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of", [of_model, of_backbone])
def test_code_of_ones_own_counts_with_what_it_imports(job, tmp_path, monkeypatch, layout, of):
    files, factory, expected = LAYOUTS[layout]
    write(tmp_path, files)
    monkeypatch.syspath_prepend(tmp_path)
    assert counting(of(job, factory), tmp_path, files) == expected


def write(folder, files):
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def counting(job, folder, files):
    """The files that count, found by editing one after another."""
    before, found = digest(job), set()
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.write_text(f"{text}\nadded = 1\n")
        found |= {name} if digest(job) != before else set()
        path.write_text(text)
    assert digest(job) == before
    return found


def test_backbone_of_a_file_counts_with_the_files_beside_it_wherever_they_lie(job, tmp_path):
    files = {"net": "import beside", "beside": "", "other": ""}
    found = set()
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write(folder, files)
        in_file = of_backbone(job, f"{folder}/net.py:build")
        assert counting(in_file, folder, files) == {"net", "beside"}
        found.add(digest(in_file))
    assert len(found) == 1


def test_code_in_another_folder_of_the_path_counts(job, tmp_path, monkeypatch):
    files = {"one/mine": "import helper", "two/helper": "", "two/other": ""}
    write(tmp_path, files)
    for name in ("one", "two"):
        monkeypatch.syspath_prepend(tmp_path / name)
    assert counting(of_model(job, "mine:Model"), tmp_path, files) == {"one/mine", "two/helper"}


def test_of_an_installed_package_its_own_modules_count_and_none_is_run(job, tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    files = {
        "inst/__init__": "raise RuntimeError\nfrom inst.a import build",
        "inst/a": "import beside, os, inst.b",
        "inst/b": "",
        "inst/c": "",
        "beside": "",
    }
    (folder / "inst").mkdir(parents=True)
    write(folder, files)
    monkeypatch.syspath_prepend(folder)
    found = counting(of_backbone(job, "inst.a:build"), folder, files)
    assert found == {"inst/__init__", "inst/a", "inst/b"}
    assert counting(of_backbone(job, "inst:build"), folder, files) == found
    assert "inst" not in sys.modules


def test_bytes_of_a_compiled_module_count(job, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import fast")
    monkeypatch.syspath_prepend(tmp_path)
    found = set()
    for content in (b"\x7fELF one", b"\x7fELF two"):
        (tmp_path / COMPILED).write_bytes(content)
        found.add(digest(of_model(job, "mine:Model")))
    assert len(found) == 2


@pytest.mark.parametrize("factory", ["", ":", "nothing", "nothing.of:it", "json:loads", "sys:x"])
def test_factory_that_is_nowhere_or_of_the_library_is_for_others_to_refuse(job, factory):
    assert len({digest(of_model(job, factory)), digest(of_backbone(job, factory))}) == 2


def test_a_process_runs_what_it_has_read_and_notices_an_edit(job, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    mine = tmp_path / "mine.py"
    mine.write_text("a = 1\n")
    first, second = of_model(job, "mine:A"), of_model(job, "mine:B")
    held = provenance.code_digest(first)
    assert not provenance.code_changed(first)
    mine.write_text("a = 1  # one\n")
    assert not provenance.code_changed(first)
    mine.write_text("a = 2\n")
    assert provenance.code_digest(first) == held
    assert provenance.code_changed(first)
    assert provenance.code_changed(second)  # another name of a module that this process holds
    mine.write_text("a = 1\n")
    assert not provenance.code_changed(first)
    assert not provenance.code_changed(second)


def test_a_worker_holds_the_shared_code_before_it_has_a_job(job, project):
    forget()
    provenance.read_shared_code()
    edit(project / "harness/metrics/ranks.py", lambda text: text + "\nadded = 1\n")
    assert provenance.code_changed(job)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_that_computes_is_forgotten(job, name):
    """Every file of the project in which anything runs while a job is evaluated is digested."""
    job = replace(
        job,
        model=ModelConfig(name, MODELS[name]),
        localizer="patch_density" if name == "knn" else "occlusion",
        n_train=20,
        threshold_quantile=0.9,
        pixel_resolution=32,
    )
    ran = set()

    def note(frame, event, _):
        ran.add((frame.f_code.co_filename, frame.f_code.co_name))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        evaluate(job)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    walk = provenance._Walk(job.model.factory, job.backbone.factory)
    modules = {module_name(file) for file, function in ran if is_code(file, function)}
    assert {"harness.fitting", "harness.metrics.ranks", "dfkde.base", "tests.tiny"} <= modules
    assert modules <= walk.sources.keys()


def is_code(file, function):
    """Whether it is of this project, and no `__init__` that looks up what it re-exports."""
    ours = any(Path(file).is_relative_to(ROOT / name) for name in ("dfkde", "harness"))
    lookup = file.endswith("__init__.py") and function in ("__getattr__", "<module>")
    return (ours and not lookup) or Path(file) == ROOT / "tests" / "tiny.py"


def module_name(file):
    parts = Path(file).relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
