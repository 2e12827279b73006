"""The commands that the pages name, and a folder of a user's in which they can be given."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import torch
import yaml
from torch import nn
from torchvision.models import resnet18

from dfkde.backbones import presence
from harness import config
from harness.config import conf_dir
from harness.data.official import PUBLISHED, PublishedCategory
from harness.data.synthetic import Plan, as_published, write_synthetic

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTING = re.compile(r"[A-Z]\w+=\S+$")
# `bottle` trains on more images than the others: some commands ask for 32 components.
FEW, MORE = Plan(side=32), Plan(scale=0.2, side=16)
# Normal and defective cells of each type: the smallest numbers for 40 training images.
N_CELLS = 70, 10


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
        indented = re.findall(r"^    (python .*)$", text, flags=re.MULTILINE)
        # What other modules than benchmarks do without arguments is a name in a sentence.
        named = re.findall(r"`(python -m\s(?:benchmarks\.\w+|[\w.]+ [^`]*))`", text)
        for line in [*indented, *named, *re.findall(r"`(python docs/\w+.py)`", text)]:
            yield page.name, " ".join(line.replace("\\|", "|").split())


EVERY = list(dict.fromkeys((page, line) for page, line in commands() if line))


def words(line):
    """Split a command as a shell does, without its variables and what it is redirected to."""
    found = shlex.split(line.partition(" > ")[0], comments=True)
    while SETTING.match(found[0]):
        found = found[1:]
    return found


def of_module(*names):
    """Return the commands of these modules, each once, as one line without `python -m`."""
    each = (words(line) for _, line in EVERY)
    return list(
        dict.fromkeys(
            shlex.join(parts[2:])
            for parts in each
            if parts[:2] == ["python", "-m"] and parts[2] in names
        )
    )


def published():
    """Return what makes the data of `write_user` the published ones, by dataset."""
    found = {name: as_published(name, FEW) for name in ("mvtec", "btad", "visa")}
    found["mvtec"]["bottle"] = as_published("mvtec", MORE)["bottle"]
    train, size = round(0.6 * N_CELLS[0]), (32, 32)
    cells = PublishedCategory(train, N_CELLS[0] - train, N_CELLS[1], ".png", size, synthetic=True)
    return found | {"elpv": dict.fromkeys(PUBLISHED["elpv"], cells)}


def write_data(root, datasets):
    """Write the datasets of a user, each of few small images, and a file of weights.

    The weights of ResNet50, which would be downloaded, are those of a random ResNet18.
    """
    for name in ("btad", "visa", "mvtec"):
        shutil.copytree(datasets / name, root / name)
    shutil.rmtree(root / "mvtec" / "bottle")
    write_synthetic(root / "mvtec", "mvtec", categories=["bottle"], plan=MORE)
    _write_cells(root)
    for category in ("gear", "spring"):
        shutil.copytree(root / "mvtec" / "screw", root / "parts" / category)
    shutil.copytree(root / "mvtec" / "bottle" / "train" / "good", root / "folder" / "normal")
    shutil.copytree(root / "mvtec" / "bottle" / "test", root / "images")
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), root / "resnet50.pth")
    return root


def write_checkout(root, data):
    """Write a checkout as a user has it who did what the pages say.

    Its `conf/` differs from ours in sizes and weights alone: images are resized to 64 pixels, and
    the learning curve has 2 numbers of images and 2 seeds in place of 5 and 5.
    """
    (root / "docs").mkdir(parents=True)
    (root / "results").mkdir()
    for page in ("README.md", "docs/results.md", "docs/models.md"):
        shutil.copy(ROOT / page, root / page)
    for path in (ROOT / "results").glob("published*.csv"):
        shutil.copy(path, root / "results")
    _write_conf(root / "conf", weights=data / "resnet50.pth")
    usage = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    mine = re.search(r"```yaml\n(name: mine.*?)```", usage, flags=re.DOTALL)[1]
    (root / "conf/dataset/mine.yaml").write_text(mine)
    (root / "conf/model/centroid.yaml").write_text("name: centroid\nfactory: mymodule:Centroid\n")
    centroid = re.search(r"```python\n(.*?class Centroid.*?)```", usage, flags=re.DOTALL)[1]
    network = "from tests.sweep.documented import build\n"
    (root / "mymodule.py").write_text(f"{network}{centroid}")
    (root / "mynet.py").write_text(network)
    return root


def _write_cells(data):
    """Write the solar cells of ELPV: grey textures, too."""
    plan, lines = Plan(side=32, scale=0.3), []
    (data / "elpv" / "images").mkdir(parents=True)
    for cell_type, category in {"mono": "screw", "poly": "grid"}.items():
        write_synthetic(data / "made", "mvtec", categories=[category], plan=plan)
        folder = data / "made" / category
        normal = sorted(folder.glob("train/*/*"))[: N_CELLS[0]]
        defective = sorted(folder.glob("test/s*/*"))[: N_CELLS[1]]
        assert (len(normal), len(defective)) == N_CELLS
        for k, path in enumerate([*normal, *defective]):
            name = f"images/{cell_type}{k:03}.png"
            lines.append(f"{name} {float(path in defective)} {cell_type}\n")
            path.rename(data / "elpv" / name)
    (data / "elpv" / "labels.csv").write_text("".join(lines))
    shutil.rmtree(data / "made")


def _write_conf(conf, *, weights):
    shutil.copytree(conf_dir(), conf)
    small = {"arguments": {"architecture": "resnet18"}, "weights": str(weights)}
    for name, values in {
        "backbone/resnet50": small,
        "features/default": {"engine": "torch"},
    }.items():
        path = conf / f"{name}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))
    for name, old, new in (
        ("config", "image_size: 256", "image_size: 64"),
        ("experiment/demo_n_train", "20,40,80,160,320", "20,40"),
        ("experiment/demo_n_train", "0,1,2,3,4", "0,1"),
    ):
        path = conf / f"{name}.yaml"
        before, found, after = path.read_text().partition(old)
        assert found
        path.write_text(f"{before}{new}{after}")


def build():
    """Return a network of one's own, with a `layer4`."""
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(layer4=nn.Conv2d(3, 40, 8, stride=8)))


class User:
    """A user with data, who gives commands in the folder of a checkout."""

    def __init__(self, patch, data, checkout):
        self.patch, self.data, self.runs = patch, data, {}
        self.uri = f"sqlite:///{checkout / 'runs' / 'mlflow.db'}"
        patch.chdir(checkout)
        patch.syspath_prepend(str(checkout))
        for name in ("mymodule", "mynet"):
            patch.delitem(sys.modules, name, raising=False)  # that of another test
        patch.setenv("DFKDE_DATA", str(data))
        patch.setenv("PYTHONPATH", f"{ROOT}:{checkout}")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(config, "__file__", str(checkout / "harness" / "config.py"))  # for its conf/
        patch.setattr(presence, "reachable", lambda url: True)
        for name, categories in published().items():
            patch.setitem(PUBLISHED, name, categories)

    def words(self, line):
        """Split a command, with places, runs and tables where the page has words for them."""
        own = self.data / "folder"
        for name, value in {
            "/tmp": Path.cwd() / "tmp",
            "dataset=folder dataset.root=PATH": f"dataset=folder dataset.root={own}",
            "dataset.root=PATH": f"dataset.root={self.data / 'parts'}",
            "--root FOLDER": f"--root {self.data / 'mvtec'}",
            "--images FOLDER": f"--images {self.data / 'mvtec' / 'bottle'}",
            "FOLDER": self.data / "images",
            "sqlite:///some/where/mlflow.db": self.uri,
            "$MLFLOW_TRACKING_URI": self.uri,
            "--uri URI": f"--uri {self.uri}",
            "TABLE TABLE": "mvtec_efficientnet_lite0 mvtec_resnet50",
        }.items():
            line = line.replace(name, str(value))
        for name, run_id in self.runs.items():
            line = re.sub(rf"\b{name}\b", run_id, line)
        return shlex.split(line)
