"""Where a number comes from: the commit, the library versions, the machine, the code that ran.

The digest of the code covers the syntax trees of the modules that a job's numbers depend on, found
by following imports from `harness.experiment` and from the factories of model and backbone.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import resolve_name, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

from harness.config import Job
from harness.system.threads import cores

_ROOT = Path(__file__).resolve().parent.parent
# What can change a number; an edited README or a new table does not make the code dirty.
_CODE = ("conf", "dfkde", "harness", "hydra_plugins", "pyproject.toml")
_PACKAGES = (
    "dfkde-benchmark",
    "mlflow",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "openvino",
    "pillow",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)

CHANGED = "changed while running"
"""In place of the digest, where a process did not run what its files held at its end."""

_PROJECT = ("dfkde", "harness")


class Commit(NamedTuple):
    """The commit, 40 hexadecimal digits or `unknown`, and whether the code differs from it."""

    sha: str
    dirty: bool


@cache
def commit() -> Commit:
    """Return the commit of the running code."""
    unknown = Commit("unknown", dirty=False)
    # A package installed into a virtual environment inside somebody else's checkout must not
    # report that checkout's commit: only the folder that holds this project's own `.git` counts.
    if not (_ROOT / ".git").exists():
        return unknown
    command = ["git", "-C", str(_ROOT), "status", "--porcelain=v2", "--branch", "--", *_CODE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return unknown
    lines = done.stdout.splitlines()  # first `# branch.oid SHA`, then what differs from it
    return Commit(lines[0].split()[-1], dirty=any(not line.startswith("#") for line in lines))


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def machine() -> dict[str, str]:
    """Describe the machine without naming it: system, processor, cores."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(cores()),
    }


def code_digest(job: Job) -> str:
    """Return a digest of the code that computes a job's numbers, 64 hexadecimal digits.

    A process runs the code that it has imported: what counts is what a file held when this process
    first asked for it. Comments, docstrings and layout do not enter, nor does the folder where the
    code is installed.
    """
    return _walk(job.model.factory, job.backbone.factory).digest


def code_changed(job: Job) -> bool:
    """Return whether the files of a job's code have changed since this process first read them."""
    sources = _walk(job.model.factory, job.backbone.factory).sources.values()
    edited = [source for source in sources if _stamp(source.path) != source.stamp]
    return any(_read.__wrapped__(s.path, s.package).digest != s.digest for s in edited)


def modules_digest(names: Iterable[str]) -> str:
    """Return a digest of the syntax trees of these modules alone, 64 hexadecimal digits."""
    walk = _Walk(shared=())
    sources = {name: walk.source(name) for name in names}
    return _sha256(json.dumps({n: s.digest for n, s in sources.items() if s}, sort_keys=True))


def factory_digest(factory: str) -> str:
    """Return a digest of the module of a factory and of what it reaches, 64 hexadecimal digits."""
    return _Walk(factory, shared=()).digest


def read_shared_code() -> None:
    """Read the code that all jobs share as it is now; a process does so before importing it."""
    _Walk()


class _Import(NamedTuple):
    """A name that is taken from a module, which may be a module below it; empty for all names."""

    module: str
    name: str = ""


class _Source(NamedTuple):
    """A file of code as it was read."""

    path: str
    package: str
    """What its relative imports are relative to."""
    stamp: tuple[int, int]
    digest: str
    imports: tuple[tuple[str, _Import], ...] = ()
    """By the name that each is given."""


class _Walk:
    """The code that factories depend on, found by following imports without running any."""

    def __init__(self, *factories: str, shared: Sequence[str] = ("harness.experiment",)) -> None:
        self.sources: dict[str, _Source] = {}
        """By module."""
        self._spec = cache(self._find)
        self._followed = {*_PROJECT}
        """Top-level names of what counts although it is installed."""
        self._places: list[str] = []
        """Folders of the files that are factories, where their imports are looked for, too."""
        todo, seen = [*map(_Import, shared), *map(self._start, factories)], set[_Import]()
        while todo:
            if (wanted := todo.pop()) not in seen:
                seen.add(wanted)
                todo += self._follow(wanted)
        named = [Path(factory).name for factory in factories]
        digests = sorted((Path(m).name, source.digest) for m, source in self.sources.items())
        self.digest = _sha256(json.dumps([named, digests]))

    def source(self, module: str) -> _Source | None:
        """Read the file of a module; None of one that has none, or that is a library's."""
        if (spec := self._spec(module)) is None:
            return None
        folders = spec.submodule_search_locations
        origin = spec.origin if spec.has_location else next(iter(folders or ()), None)
        path = str(Path(origin).resolve()) if origin else ""
        if not path or (_is_installed(path) and module.partition(".")[0] not in self._followed):
            return None
        return _read(path, _parent(module) if folders is None else module)

    def _start(self, factory: str) -> _Import:
        """Return the name that a factory is, and follow its own package from now on."""
        module, _, name = factory.rpartition(":")
        if module.endswith(".py"):
            self._places.append(str(Path(module).resolve().parent))
        else:  # it may be a class within a class
            module, _, name = factory.replace(":", ".").rpartition(".")
            while "." in module and self._spec(module) is None:
                module, _, name = module.rpartition(".")
        self._followed.add(module.partition(".")[0])
        return _Import(module, name)

    def _follow(self, wanted: _Import) -> list[_Import]:
        """Note the module that a name is from, and return what it imports.

        A package of this project or of a library gathers names for others to import: one of them
        must not count as all. A package of the user's own counts as a whole.
        """
        module, name = wanted
        if (source := self.source(module)) is None:
            return []
        is_own = module.partition(".")[0] not in _PROJECT and not _is_installed(source.path)
        below = [_Import(f"{module}.{name}")] if self._spec(f"{module}.{name}") else []
        if name and source.package == module and not is_own:
            homes = [home for given, home in source.imports if given == name and home != wanted]
            if homes := homes or below:
                return homes
        self.sources[module] = source
        above = [_Import(_parent(module))] if is_own else []
        return [*above, *below, *(home for _, home in source.imports)]

    def _find(self, module: str) -> ModuleSpec | None:
        """Find a module as an import would, but without importing the packages above it."""
        if module.endswith(".py"):
            return spec_from_file_location(Path(module).stem, module)
        above, _, name = module.rpartition(".")
        if not name:
            return None
        if above:
            package = self._spec(above)
            folders = package and package.submodule_search_locations
            return PathFinder.find_spec(name, folders) if folders else None
        found = (finder.find_spec(name, None) for finder in sys.meta_path)
        return next(filter(None, found), None) or PathFinder.find_spec(name, self._places)


# Of a model and a backbone, the code that this process runs.
_walk = cache(_Walk)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _sha256(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def _parent(module: str) -> str:
    """Return the package that a module is in."""
    return "" if module.endswith(".py") else module.rpartition(".")[0]


@cache
def _is_installed(path: str) -> bool:
    python = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return bool({"site-packages", "dist-packages"} & {*Path(path).parts}) or any(
        Path(path).is_relative_to(Path(place).resolve()) for place in python
    )


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@cache
def _read(path: str, package: str) -> _Source:
    """Read a file as it is when it is first asked for."""
    stamp = _stamp(path)
    content = Path(path).read_bytes() if Path(path).is_file() else b""
    return _Source(path, package, stamp, *_parsed(content, package))


@cache
def _parsed(content: bytes, package: str) -> tuple[str, tuple[tuple[str, _Import], ...]]:
    """Digest code and list its imports; if it is compiled or no valid Python the bytes count."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of its import are enough
            tree = ast.parse(content)
        return _sha256(_text(tree)), tuple(_imports(tree, package))
    except (SyntaxError, ValueError, RecursionError):
        return _sha256(content), ()


def _imports(tree: ast.AST, package: str) -> Iterator[tuple[str, _Import]]:
    """Yield what a file imports, wherever in it, by the name that it is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                for n in [len(parts)] if alias.asname else range(1, len(parts) + 1):
                    yield alias.asname or parts[0], _Import(".".join(parts[:n]))
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # beyond the top: the import itself will fail
                module = resolve_name("." * node.level + (node.module or ""), package)
                for alias in node.names:
                    yield alias.asname or alias.name, _Import(module, alias.name.strip("*"))
        elif isinstance(node, ast.Call) and node.args:  # `import_module("helper")`
            called = getattr(node.func, "id", getattr(node.func, "attr", None))
            name = getattr(node.args[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(name, str):
                with suppress(ImportError):
                    yield "", _Import(resolve_name(name, package))


def _is_text(node: object) -> bool:
    """Return whether a statement is a docstring, which does nothing wherever it is."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _text(node: Any) -> str:
    """Write a tree out, alike in every version of Python: `ast.dump` is not."""
    if isinstance(node, list):
        return f"[{','.join(_text(value) for value in node if not _is_text(value))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    # Empty fields come and go between versions; whether a name is read or set shows by its place.
    fields = [(name, getattr(node, name, None)) for name in node._fields]
    kept = [(n, v) for n, v in fields if v not in (None, []) and n not in ("ctx", "kind")]
    return f"{type(node).__name__}({','.join(f'{n}={_text(v)}' for n, v in kept)})"
