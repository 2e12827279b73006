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
from pkgutil import get_importer
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
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BLOCKS = (ast.stmt, ast.ExceptHandler, ast.match_case)

_Stamp = tuple[int, int]


class Commit(NamedTuple):
    """The commit, 40 hexadecimal digits or `unknown`, and whether the code differs from it."""

    sha: str
    dirty: bool


@cache
def commit() -> Commit:
    """Return the commit of the running code."""
    sha = _git("rev-parse", "HEAD")
    if sha is None:
        return Commit("unknown", dirty=False)
    return Commit(sha, dirty=bool(_git("status", "--porcelain", "--", *_CODE)))


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that numbers depend on."""
    found = {name: _version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v}


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
    return _held(job.model.factory, job.backbone.factory)[0]


def code_changed(job: Job) -> bool:
    """Return whether the files of a job's code have changed since this process first read them."""
    factories = job.model.factory, job.backbone.factory
    held, stamps = _held(*factories)
    if all(_stamp(path) == stamp for path, stamp in stamps.items()):
        return False
    return _Walk({}).digest(*factories) != held


def modules_digest(names: Iterable[str]) -> str:
    """Return a digest of the syntax trees of these modules alone, 64 hexadecimal digits."""
    walk = _Walk(_first)
    text = json.dumps({name: walk.module_digest(name) for name in names}, sort_keys=True)
    return _sha256(text.encode())


def factory_digest(factory: str) -> str:
    """Return a digest of the module of a factory and of what it reaches, 64 hexadecimal digits."""
    return _Walk(_first).digest(factory, shared=())


def read_shared_code() -> None:
    """Read the code that all jobs share as it is now; a process does so before importing it."""
    _Walk(_first).digest()


# The state of each file when this process first asked for it.
_first: dict[str, _Stamp] = {}


@cache
def _held(model: str, backbone: str) -> tuple[str, dict[str, _Stamp]]:
    """Return the digest of what this process runs, and the stamps of the files it depends on."""
    walk = _Walk(_first)
    digest = walk.digest(model, backbone)
    return digest, {path: _first[path] for path in walk.files}


class _Import(NamedTuple):
    """A module that is imported, or a name that is taken from it; `*` takes all."""

    module: str
    name: str = "*"


class _Source(NamedTuple):
    """What a file of code defines and imports."""

    digest: str = ""
    imports: tuple[_Import, ...] = ()
    taken: tuple[tuple[str, _Import], ...] = ()
    """The names of the module that imports give, those for types alone among them."""
    defined: frozenset[str] = frozenset()


class _Walk:
    """Follows imports from factories; `stamps` says which state of each file is wanted."""

    def __init__(self, stamps: dict[str, _Stamp]) -> None:
        self.files: set[str] = set()
        self.modules: dict[str, str] = {}
        """The digests of the modules that have been reached, by name."""
        self._stamps = stamps
        self._libraries: set[str] = set()
        """Installed packages that hold a factory."""
        self._places: set[Path] = set()
        """Folders of the files that are factories, where their imports are looked for, too."""
        self._specs: dict[str, ModuleSpec | None] = {}

    def module_digest(self, module: str) -> str:
        return self._source(module).digest

    def digest(self, *factories: str, shared: Sequence[str] = ("harness.experiment",)) -> str:
        starts = [self._start(factory) for factory in factories]
        todo, seen = [*map(_Import, shared), *starts], set[_Import]()
        while todo:
            wanted = todo.pop()
            if wanted not in seen and self._is_followed(wanted.module):
                todo += self._follow(wanted)
            seen.add(wanted)
        named = [(_key(start.module), start.name) for start in starts]
        text = json.dumps([named, self.modules], sort_keys=True)
        return _sha256(text.encode())

    def _start(self, factory: str) -> _Import:
        """Return the name that a factory is, and follow its own package from now on."""
        module, _, name = factory.rpartition(":" if ":" in factory else ".")
        while "." in module and not module.endswith(".py") and self._spec(module) is None:
            module, _, name = module.rpartition(".")  # a class within a class, written with dots
        if module.endswith(".py"):
            self._places.add(Path(module).resolve().parent)
        elif self._top(module) not in _PROJECT and not self._is_own(module):
            self._libraries.add(self._top(module))
        return _Import(module, name.partition(".")[0])

    def _follow(self, wanted: _Import) -> list[_Import]:
        """Return what an import leads to, and note the module in which it ends."""
        module, source = wanted.module, self._source(wanted.module)
        submodule = f"{module}.{wanted.name}"
        below = [_Import(submodule)] if self._is_module(submodule) else []
        if self._is_own(module):
            above = [_Import(package) for package in _above(module)]
            self.modules[_key(module)] = source.digest
            return [*above, *below, *source.imports]
        homes = self._homes(wanted, source) or below
        if not homes:
            self.modules[_key(module)] = source.digest
        return homes or list(source.imports)

    def _homes(self, wanted: _Import, source: _Source) -> list[_Import]:
        """Return where a package of ours or a library takes a name from; nothing if it is its own.

        Such a package gathers names for others to import: one of them must not count as all. A
        package of the user's own may do anything when it is imported, and counts as a whole.
        """
        module, name = wanted
        if name == "*" or name in source.defined or not self._is_package(module):
            return []
        taken = [home for given, home in source.taken if given == name and home != wanted]
        return taken or [home for given, home in source.taken if given == "*"]

    def _is_followed(self, module: str) -> bool:
        return self._top(module) in {*_PROJECT, *self._libraries} or self._is_own(module)

    def _is_own(self, module: str) -> bool:
        """Return whether code is the user's own: neither this project's nor installed."""
        if self._top(module) in _PROJECT:
            return False
        folder = _folder(self._spec(self._top(module)))
        return folder is not None and not _is_installed(folder)

    def _is_module(self, module: str) -> bool:
        return not module.endswith(".*") and all(module.split(".")) and bool(self._spec(module))

    def _top(self, module: str) -> str:
        return module if module.endswith(".py") else module.partition(".")[0]

    def _is_package(self, module: str) -> bool:
        spec = self._spec(module)
        return spec is not None and spec.submodule_search_locations is not None

    def _source(self, module: str) -> _Source:
        spec = self._spec(module)
        if spec is None or spec.origin is None or not spec.has_location:
            return _Source()  # no file of its own
        path, is_package = str(Path(spec.origin).resolve()), self._is_package(module)
        self.files.add(path)
        stamp = self._stamps.setdefault(path, _stamp(path))
        package = module if is_package else module.rpartition(".")[0]
        installed = self._top(module) in self._libraries
        return _read(path, package, is_package=is_package, installed=installed, stamp=stamp)

    def _spec(self, module: str) -> ModuleSpec | None:
        """Find a module as an import would, but without importing the packages above it."""
        if module not in self._specs:
            self._specs[module] = self._find(module)
        return self._specs[module]

    def _find(self, module: str) -> ModuleSpec | None:
        if not module:  # of a factory that names none
            return None
        if module.endswith(".py"):
            return spec_from_file_location(Path(module).stem, module)
        above = module.rpartition(".")[0]
        if not above:
            found = (finder.find_spec(module, None) for finder in sys.meta_path)
            places = [str(place) for place in self._places]
            return next(filter(None, found), None) or PathFinder.find_spec(module, places)
        package = self._spec(above)
        folders = (package and package.submodule_search_locations) or []
        finders: list[Any] = list(filter(None, map(get_importer, folders)))
        specs = [spec for finder in finders if (spec := finder.find_spec(module)) is not None]
        # A folder without `__init__.py` is a package too, where nothing else has its name.
        return next((spec for spec in specs if spec.loader), specs[0] if specs else None)


def _git(*arguments: str) -> str | None:
    # A package installed into a virtual environment inside somebody else's checkout must not
    # report that checkout's commit: only the folder that holds this project's own `.git` counts.
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _key(module: str) -> str:
    """Return a module's name; of a file, whose place does not matter, its own."""
    return Path(module).name if module.endswith(".py") else module


def _folder(spec: ModuleSpec | None) -> Path | None:
    """Return the folder that holds a top-level module or package."""
    if spec is not None and spec.submodule_search_locations is not None:
        return Path(next(iter(spec.submodule_search_locations))).resolve().parent
    return (
        Path(spec.origin).resolve().parent if spec and spec.origin and spec.has_location else None
    )


def _above(module: str) -> list[str]:
    """Name the packages that a module is in."""
    parts = [] if module.endswith(".py") else module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


@cache
def _is_installed(folder: Path) -> bool:
    python = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    return bool({"site-packages", "dist-packages"} & {*folder.parts}) or any(
        folder.is_relative_to(place) for place in python
    )


def _stamp(path: str) -> _Stamp:
    try:
        status = Path(path).stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@cache
def _read(path: str, package: str, *, is_package: bool, installed: bool, stamp: _Stamp) -> _Source:
    """Read a file; of one that is installed, compiled or no valid Python the bytes count."""
    content = Path(path).read_bytes() if any(stamp) else b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of its import are enough
            tree = ast.parse(content if path.endswith(".py") else b"\0")
        text = content if installed else _text(tree).encode()
    except (SyntaxError, ValueError, RecursionError):
        return _Source(_sha256(content))
    scope = [*_statements(tree, inner=False)]
    # Of a package that is taken whole any name may be wanted, lazy ones among them.
    imports = [home for _, home in _imports(_statements(tree, types=is_package), package)]
    return _Source(
        digest=_sha256(text),
        imports=(*imports, *_calls(tree, package)),
        taken=tuple(_imports(scope, package)),
        defined=frozenset(_defined(scope)),
    )


def _statements(node: ast.AST, *, types: bool = True, inner: bool = True) -> Iterator[ast.AST]:
    """Yield the statements below a node: for types alone too, inside functions and classes too."""
    only_else = not types and _is_for_types(node)
    for field, values in ast.iter_fields(node):
        if not isinstance(values, list) or (only_else and field == "body"):
            continue
        for value in values:
            if isinstance(value, _BLOCKS):
                yield value
                if inner or not isinstance(value, _SCOPES):
                    yield from _statements(value, types=types, inner=inner)


def _is_for_types(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def _imports(
    nodes: Iterator[ast.AST] | list[ast.AST], package: str
) -> Iterator[tuple[str, _Import]]:
    """Yield what statements import, by the name that it is given."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                for n in [len(parts)] if alias.asname else range(1, len(parts) + 1):
                    yield alias.asname or parts[0], _Import(".".join(parts[:n]))
        elif isinstance(node, ast.ImportFrom):
            try:
                module = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the top: the import itself will fail
                continue
            for alias in node.names:
                yield alias.asname or alias.name, _Import(module, alias.name)


def _calls(tree: ast.AST, package: str) -> Iterator[_Import]:
    """Yield what is imported by a call, `import_module("helper")`, where the name stands there."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = getattr(node.func, "id", getattr(node.func, "attr", None))
        name = getattr(node.args[0], "value", None)
        if called in ("import_module", "__import__") and isinstance(name, str) and name.strip("."):
            with suppress(ImportError):  # beyond the top: the import itself will fail
                yield _Import(resolve_name(name, package))


def _defined(scope: list[ast.AST]) -> Iterator[str]:
    for node in scope:
        if isinstance(node, _SCOPES):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))


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
