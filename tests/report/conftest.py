from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from harness.compose import ComposeError, Sweep, sweeps_of
from harness.report import declaration
from harness.report.publish import publish
from tests.report.synthetic import complete, sweep

_CHECKOUT = Path(__file__).parent / "checkout"
_composed: dict[tuple[object, ...], Sweep] = {}


@pytest.fixture(scope="session", autouse=True)
def _compose_once() -> Iterator[None]:
    """Compose an experiment of equal configuration files once: it takes a third of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(declaration, "sweeps_of", _sweeps_of)
        yield


def _sweeps_of(conf: Path, experiments: Iterable[str]) -> dict[str, Sweep | ComposeError]:
    own = conf / "experiment"
    names = list(experiments)
    files = {path: path.read_bytes() for path in sorted(conf.rglob("*")) if path.is_file()}
    shared = [(str(p.relative_to(conf)), text) for p, text in files.items() if p.parent != own]
    keys = {name: (name, files.get(own / f"{name}.yaml"), *shared) for name in names}
    missing = [name for name in names if keys[name] not in _composed]
    found = sweeps_of(conf, missing) if missing else {}
    # An error may name the folder.
    _composed.update((keys[n], s) for n, s in found.items() if isinstance(s, Sweep))
    return {name: _composed.get(keys[name]) or found[name] for name in names}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the synthetic checkout: its conf/ and a README with empty tables."""
    return Path(shutil.copytree(_CHECKOUT, tmp_path / "checkout"))


@pytest.fixture(scope="session")
def _published_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(_CHECKOUT, tmp_path_factory.mktemp("once") / "checkout"))
    publish(folder, complete())
    return folder


@pytest.fixture(scope="session")
def _swept_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(_CHECKOUT, tmp_path_factory.mktemp("swept") / "checkout"))
    publish(folder, sweep())
    return folder


@pytest.fixture
def published(_published_once: Path, tmp_path: Path) -> Path:
    """A synthetic checkout whose table `parts_tiny` is complete, the other tables empty."""
    return Path(shutil.copytree(_published_once, tmp_path / "published"))


@pytest.fixture
def swept(_swept_once: Path, tmp_path: Path) -> Path:
    """A synthetic checkout filled by the mini sweep."""
    return Path(shutil.copytree(_swept_once, tmp_path / "swept"))
