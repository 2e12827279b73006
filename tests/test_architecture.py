"""The import arrows, read from the source: what may know of what."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path
    for folder in ("dfkde", "harness", "hydra_plugins")
    for path in (ROOT / folder).rglob("*.py")
)
# Library -> the modules that may import it.
HOMES = {
    "hydra": r"harness\.(run|compose)|hydra_plugins\..*",
    "omegaconf": r"harness\.(run|compose)|hydra_plugins\..*",
    "mlflow": r"harness\.tracking(\..*)?|harness\.predict(\..*)?",
    "torch": r"harness\.features(\..*)?|dfkde\.(extractor|graph|backbones)(\..*)?",
    "torchvision": r"harness\.features(\..*)?|dfkde\.(extractor|backbones)(\..*)?",
    "timm": r"dfkde\.backbones(\..*)?",
}
# Package of the harness -> the packages of the harness that it must not import.
FORBIDDEN = {
    "harness.report": "harness.experiment harness.fitting harness.gallery harness.run "
    "harness.features harness.data dfkde",
    "harness.data": "harness.experiment harness.run harness.features harness.metrics "
    "harness.tracking harness.report",
    "harness.features": "harness.experiment harness.run harness.metrics harness.tracking "
    "harness.report",
    "harness.metrics": "harness.experiment harness.run harness.features harness.data "
    "harness.tracking harness.report harness.config",
    "harness.tracking": "harness.experiment harness.run harness.features harness.data "
    "harness.report",
    "harness.experiment": "harness.run harness.tracking harness.report",
    "harness.compose": "harness.experiment harness.run harness.features harness.data "
    "harness.metrics harness.tracking harness.report hydra_plugins",
    "dfkde": "harness hydra_plugins",
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path):
    """Every module that the source imports, anywhere in it except for types alone."""
    return tuple(_imports(path))


def _imports(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def within(module, package):
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_its_home(library):
    strangers = [
        module_name(path)
        for path in SOURCES
        if not re.fullmatch(HOMES[library], module_name(path))
        and any(within(name, library) for name in imports(path))
    ]
    assert not strangers


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows_point_one_way(package):
    wrong = [
        f"{module_name(path)} -> {name}"
        for path in SOURCES
        if within(module_name(path), package)
        for name in imports(path)
        if any(within(name, other) for other in FORBIDDEN[package].split())
    ]
    assert not wrong


def test_one_function_prints():
    """So nothing reaches a terminal that has not been through `harness.system.terminal.shown`."""
    calls = [
        (module_name(path), ast.unparse(node.func))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    printing = {"print", "sys.stdout.write", "sys.stderr.write"}
    assert [call for call in calls if call[1] in printing] == [("harness.system.terminal", "print")]


def test_one_function_counts_the_cores():
    """Any other would overlook a worker's share, and what a container is allowed."""
    counting = [
        module_name(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("cpu_count", "sched_getaffinity")
    ]
    assert set(counting) == {"harness.system.threads"}


def test_one_function_escapes_markup():
    """Two of the standard library's leave what XML forbids, or a quote."""
    strangers = [
        module_name(path)
        for path in SOURCES
        if module_name(path) != "harness.system.terminal"
        and any(name in ("html", "xml.sax.saxutils") for name in imports(path))
    ]
    assert not strangers
