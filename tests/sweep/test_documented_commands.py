"""Every command of this project that a page names is one that can be given.

Sweeps are planned on synthetic data, which composes them and makes all checks; what they compute is
tested elsewhere, with the same commands on fewer images. So are the commands of `harness.data` and
`harness.predict`, which only the network, an image or a run would complete here.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import intervals
from dfkde.backbones import presence
from harness.data.__main__ import _COMMANDS
from harness.data.__main__ import main as data
from harness.data.synthetic import Plan, write_synthetic
from harness.predict.__main__ import _settings
from tests.sweep.conftest import in_process

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Of an installation, of other programs, and of a shell.
OTHERS = {
    *("python3", ".venv/bin/pip", "pip", "source", "make", "sudo", "export", "mlflow", "sinfo"),
    *("printf", "curl"),
}
SETTING = re.compile(r"[A-Z]\w+=\S+$")


def commands():
    """Yield the commands of code blocks and, where they have arguments, of the text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
            block = re.sub(r"<<END\n.*?\nEND\n", "\n", block, flags=re.DOTALL)
            for line in block.replace("\\\n", " ").splitlines():
                yield page.name, line.strip()
        # The cases are run on their own folders, by tests/data/test_documented_cases.py.
        text = re.sub(r"```.*?```|<!-- cases -->.*<!-- /cases -->", "", text, flags=re.DOTALL)
        for line in re.findall(r"`(python -m [\w.]+ [^`]*)`", text):
            yield page.name, " ".join(line.replace("\\|", "|").split())


EVERY = list(dict.fromkeys((page, line) for page, line in commands() if line))


def words(line):
    found = shlex.split(line.partition(" > ")[0], comments=True)
    while SETTING.match(found[0]):
        found = found[1:]
    return found


def of_module(*names):
    """The arguments of the commands of these modules, each once."""
    found = {}
    for _, line in EVERY:
        parts = words(line)
        if parts[:2] == ["python", "-m"] and parts[2] in names:
            found[" ".join(parts[2:])] = (parts[2], parts[3:])
    return [pytest.param(*given, id=line) for line, given in found.items()]


def test_every_command_is_of_a_kind_that_is_tested():
    modules = {"harness." + name for name in ("run", "data", "predict", *PARSERS)}
    for page, line in EVERY:
        parts = words(line)
        known = parts[0] in OTHERS or (parts[:2] == ["python", "-m"] and parts[2] in modules)
        assert known or parts[2].startswith("benchmarks."), (page, line)


@pytest.fixture(scope="module")
def complete(datasets, tmp_path_factory):
    """The datasets, and what the pages let a user write; `bottle` trains on more images."""
    root = tmp_path_factory.mktemp("user")
    for name in ("btad", "visa"):
        (root / name).symlink_to(datasets / name)
    shutil.copytree(datasets / "mvtec", root / "mvtec")
    shutil.rmtree(root / "mvtec" / "bottle")
    write_synthetic(root / "mvtec", "mvtec", categories=["bottle"], plan=Plan(0.2, 16))
    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    mine = re.search(r"```yaml\n(name: mine.*?)```", text, flags=re.DOTALL)[1]
    centroid = re.search(r"```python\n(.*?class Centroid.*?)```", text, flags=re.DOTALL)[1]
    (root / "mymodule.py").write_text(f"{centroid}\n\ndef build():\n    pass\n")
    for path, content in {
        "dataset/mine": mine,
        "model/centroid": "name: centroid\nfactory: mymodule:Centroid",
    }.items():
        (root / "conf" / path).with_suffix(".yaml").parent.mkdir(parents=True)
        (root / "conf" / path).with_suffix(".yaml").write_text(content)
    for category in ("gear", "spring"):
        shutil.copytree(root / "mvtec" / "screw", root / "mine" / category)
    shutil.copytree(root / "mvtec" / "bottle" / "train" / "good", root / "mine" / "normal")
    return root


@pytest.mark.parametrize(("module", "arguments"), of_module("harness.run"))
def test_a_documented_sweep_can_be_planned(empty_folder, complete, monkeypatch, module, arguments):
    monkeypatch.setenv("DFKDE_DATA", str(complete))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///of/a/server.db")
    monkeypatch.setattr(presence, "reachable", lambda url: True)
    monkeypatch.syspath_prepend(str(complete))
    monkeypatch.delitem(sys.modules, "mymodule", raising=False)  # that of another test
    shutil.copy(complete / "mymodule.py", empty_folder)
    given = [argument.replace("PATH", str(complete / "mine")) for argument in arguments]
    if not {"--help", "--cfg"} & set(given):
        given += [] if "plan=true" in given else ["plan=true"]
        given += ["--config-dir", str(complete / "conf")]
    ended = in_process(*given, settings=())
    assert ended.status == 0, ended.out + ended.err


PARSERS = ("report", "tracking", "features", "gallery")


@pytest.mark.parametrize(("module", "arguments"), of_module(*(f"harness.{n}" for n in PARSERS)))
def test_a_documented_command_has_these_options(module, arguments):
    name = module if module == "harness.gallery" else f"{module}.__main__"
    import_module(name)._parser().parse_args(arguments)


@pytest.mark.parametrize(("module", "arguments"), of_module("harness.data"))
def test_a_documented_command_about_data_has_these_keys(module, arguments, tmp_path, capsys):
    name, *settings = (a.replace("/tmp", str(tmp_path)) for a in arguments)
    _, keys = _COMMANDS[name]
    assert {setting.partition("=")[0] for setting in settings} <= set(keys)
    if name == "synthetic":
        assert data([name, *settings]) == 0


@pytest.mark.parametrize(("module", "arguments"), of_module("harness.predict"))
def test_a_documented_prediction_has_these_keys(module, arguments):
    assert _settings(arguments).images == (Path("FOLDER"),)


def test_a_documented_benchmark_takes_its_argument(monkeypatch):
    monkeypatch.setattr("sys.argv", ["intervals", "many"])
    with pytest.raises(SystemExit):
        intervals.main()


def test_the_page_of_settings_is_that_of_the_configuration(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = import_module("settings").page()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page
    for key in ("n_train", "dataset.root", "features.maps", "model.params.n_components", "plan"):
        assert f"| `{key}` |" in page


def test_help_explains_settings_that_exist(empty_folder):
    text = in_process("--help", settings=()).out
    assert "$" not in text
    explained = re.findall(r"^([a-z_./]+)  +\S", text.partition("Common settings")[2], re.MULTILINE)
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert len(explained) > 8
    assert all(f"`{key}`" in page or key == "hydra/launcher" for key in explained)
