"""The commands in README and docs/usage.md work as they are written there."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

from tests.sweep.conftest import in_process

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
USAGE = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")


def block(language, containing):
    blocks = re.findall(rf"```{language}\n(.*?)```", USAGE, flags=re.DOTALL)
    [found] = [text for text in blocks if containing in text]
    return found


def test_a_model_of_ones_own_is_one_class_and_one_file(
    tmp_path, synthetic_mvtec, make_store, monkeypatch
):
    make_store(tmp_path / "runs")
    (tmp_path / "mymodule.py").write_text(block("python", "class Centroid"))
    (tmp_path / "tiny.py").write_text((ROOT / "tests" / "tiny.py").read_text())
    model = tmp_path / "conf" / "model" / "centroid.yaml"
    model.parent.mkdir(parents=True)
    named = re.search(
        r"centroid.yaml` with `(name: .*?)` and `(factory: .*?)`", USAGE.replace("\n", " ")
    )
    model.write_text("\n".join(named.groups()))
    command = [
        *("--config-dir", str(tmp_path / "conf"), "-m"),
        *("category=bottle", "dataset.official=false", f"dataset.root={synthetic_mvtec}"),
        *("backbone=custom", "backbone.factory=tiny:build", "backbone.layers=[features]"),
        *("image_size=64", "model=dfkde,centroid"),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    ended = in_process(*command, settings=())
    assert ended.status == 0, ended.out + ended.err
    assert re.search("mvtec/bottle · centroid · custom · s42 │ [0-9a-f]{8} │ finished", ended.out)


def test_a_dataset_of_ones_own_has_the_keys_of_the_schema():
    from harness.config import DatasetConfig

    DatasetConfig(**yaml.safe_load(block("yaml", "name: mine")))


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    texts = README + (ROOT / "CONTRIBUTING.md").read_text()
    for target in set(re.findall(r"^make ([a-z-]+)", texts, flags=re.MULTILINE)):
        assert f"\n{target}:" in makefile


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page):
    """The fragments of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_the_pages_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link:
            path, _, fragment = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not fragment or fragment in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_are_in_order(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    depths = [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.MULTILINE)]
    assert depths[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(depths))
