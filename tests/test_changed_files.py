"""A file replaced while a job runs, and put back: an error, and nothing of it stays."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import experiment as evaluate_module
from harness import gallery
from harness.data import DataError, load_split, read_image, read_mask
from harness.data.load import dataset_settings
from harness.data.readers import READERS
from harness.data.synthetic import write_synthetic
from harness.experiment import evaluate
from harness.features.reader import FeatureReader
from harness.fitting import reader_of
from harness.record import ImageScore


@contextmanager
def replaced(path, content):
    """Let a file have other content for as long as the block lasts."""
    kept = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(kept)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def own(job, tmp_path):
    """The job on images of its own, which may be changed."""
    root = shutil.copytree(job.dataset.root, tmp_path / "mvtec")
    return replace(job, dataset=replace(job.dataset, root=str(root)))


@pytest.fixture
def afresh(own, tmp_path):
    """The numbers of the job on a cache of its own; images are as they were listed."""
    return lambda: numbers(replace(own, features=replace(own.features, cache=str(tmp_path / "2"))))


def numbers(job):
    record = evaluate(job)
    return record.scores, record.metrics, record.data_fingerprint


def samples_of(job):
    split = load_split(job.dataset, job.category, seed=job.seed)
    return {"train": split.train[3], "test": split.test[0], "defect": split.test[-1]}


def other_of(path):
    """Another image of the same size."""
    with Image.open(path) as image:
        turned = image.transpose(Image.Transpose.ROTATE_180)
    turned.save(path.with_name("other.png"))
    content = path.with_name("other.png").read_bytes()
    path.with_name("other.png").unlink()
    assert content != path.read_bytes()
    return content


def check_message(error, path, content):
    """One line with the file, both digests, and what to do."""
    message = str(error)
    assert message.startswith(f"{path}: changed while the job ran")
    assert message.endswith("the same command runs the job again")
    assert "\n" not in message
    assert sha256(path)[:12] in message
    assert hashlib.sha256(content).hexdigest()[:12] in message


def failure(job, monkeypatch, place, function):
    """The error of the job with a function of the program replaced."""
    with monkeypatch.context() as patch:
        patch.setattr(*place, function)
        with pytest.raises(DataError) as caught:
            evaluate(job)
    return caught.value


@pytest.mark.parametrize("which", ["train", "test"])
def test_an_image_replaced_before_its_features_are_made(own, afresh, which, monkeypatch):
    sample = samples_of(own)[which]
    content = other_of(sample.path)
    pooled = FeatureReader.pooled

    def meanwhile(self, samples, *, maps=True):
        with replaced(sample.path, content):
            return pooled(self, samples, maps=maps)

    error = failure(own, monkeypatch, (FeatureReader, "pooled"), meanwhile)
    check_message(error, sample.path, content)
    assert not list(Path(own.features.cache).rglob(f"{sample.digest}*"))
    assert numbers(own) == afresh()
    found, expected = (
        next(reader_of(replace(own, features=replace(own.features, cache=str(c)))).maps([sample]))
        for c in (own.features.cache, Path(own.features.cache).with_name("3"))
    )
    np.testing.assert_array_equal(found, expected)


def test_an_image_replaced_before_maps_that_are_not_kept(own, afresh, monkeypatch):
    own = replace(own, features=replace(own.features, maps=False))
    sample = samples_of(own)["test"]
    content = other_of(sample.path)
    maps = FeatureReader.maps

    def meanwhile(self, samples):
        with replaced(sample.path, content):
            yield from maps(self, samples)

    error = failure(own, monkeypatch, (FeatureReader, "maps"), meanwhile)
    check_message(error, sample.path, content)
    assert numbers(own) == afresh()


def test_a_mask_replaced_before_the_pixel_metrics(own, afresh, monkeypatch):
    path = samples_of(own)["defect"].mask_path
    content = other_of(path)
    pixel_results = evaluate_module.pixel_results

    def meanwhile(fitted, maps):
        with replaced(path, content):
            return pixel_results(fitted, maps)

    error = failure(own, monkeypatch, (evaluate_module, "pixel_results"), meanwhile)
    check_message(error, path, content)
    assert numbers(own) == afresh()


@pytest.mark.parametrize("function", ["read_image", "read_mask", "gt_mask_of"])
def test_a_file_replaced_before_it_is_drawn(own, function, tmp_path, monkeypatch):
    split = load_split(own.dataset, own.category, seed=own.seed)
    scores = [
        ImageScore(s.name, s.defect_type, s.anomalous, -float(s.anomalous)) for s in split.test
    ]
    # The first of the pictures that have a mask.
    sample = next(sample for sample in split.test if sample.anomalous)
    path = sample.path if function == "read_image" else sample.mask_path
    content, original = other_of(path), getattr(gallery, function)

    def meanwhile(*arguments):
        with replaced(path, content):
            return original(*arguments)

    monkeypatch.setattr(gallery, function, meanwhile)
    with pytest.raises(DataError) as caught:
        gallery.draw_gallery(own, scores, tmp_path / "gallery")
    check_message(caught.value, path, content)


def test_a_sample_knows_the_digests_of_its_files(own):
    split = load_split(own.dataset, own.category, seed=own.seed)
    for sample in (*split.train, *split.test):
        assert sample.digest == sha256(sample.path)
        mask = sample.mask_path
        assert sample.mask_digest == (None if mask is None else sha256(mask))
    assert sum(sample.mask_digest is not None for sample in split.test) >= 4


def test_what_is_read_by_digest_is_what_is_read_without(own):
    sample = samples_of(own)["defect"]
    np.testing.assert_array_equal(read_image(sample.path, sample.digest), read_image(sample.path))
    mask = read_mask(sample.mask_path, sample.mask_digest)
    np.testing.assert_array_equal(mask, read_mask(sample.mask_path))
    for read in (read_image, read_mask):
        with pytest.raises(DataError, match="changed while the job ran"):
            read(sample.path, sample.mask_digest)


def visa_dataset(tmp_path):
    root = write_synthetic(tmp_path / "visa", "visa", categories=["cashew"])
    dataset = replace(dataset_settings("visa", root=str(root)), official=False)
    return dataset, "cashew", "split_csv/1cls.csv"


def elpv_dataset(tmp_path):
    root = tmp_path / "elpv"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for k in range(8):
        name = f"images/{k}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / name)
        lines.append(f"{name} {float(k > 5)} mono\n")
    (root / "labels.csv").write_text("".join(lines))
    dataset = replace(dataset_settings("elpv", root=str(root)), official=False)
    return dataset, "mono", "labels.csv"


@pytest.mark.parametrize("make", [visa_dataset, elpv_dataset])
def test_labels_replaced_after_they_were_parsed(make, tmp_path, monkeypatch):
    """The fingerprint is that of the labels that made the split, now and the next time."""
    dataset, category, name = make(tmp_path)
    path = Path(dataset.root) / name
    parsed, read = path.read_bytes(), READERS[dataset.reader]

    def meanwhile(root, category, dataset, without):
        listing = read(root, category, dataset, without)
        path.write_bytes(parsed.replace(b"\n", b"\r\n"))
        return listing

    with monkeypatch.context() as patch:
        patch.setitem(READERS, dataset.reader, meanwhile)
        raced = load_split(dataset, category, seed=1)
    changed = load_split(dataset, category, seed=1)
    path.write_bytes(parsed)
    expected = load_split(dataset, category, seed=1)
    assert raced == expected
    assert changed.fingerprint != expected.fingerprint
    # By the definition in docs/datasets.md, which no version of the program may change.
    names = {s.name for s in (*expected.train, *expected.test)} | {name}
    names |= {s.mask_name for s in expected.test if s.mask_name}
    lines = sorted(f"{one}\n{sha256(Path(dataset.root) / one)}\n" for one in names)
    assert expected.fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_folder_replaced_while_it_is_inspected_and_put_back(own, monkeypatch):
    """What was seen is kept of the files that were read, not of those that were listed."""
    bottle = Path(own.dataset.root) / "bottle"
    first, second = bottle.with_name(".first"), bottle.with_name(".second")
    bottle.rename(first)
    shutil.copytree(first, second)
    (second / "train/good/000.png").write_bytes(other_of(first / "train/good/000.png"))
    bottle.symlink_to(first)
    read = READERS["mvtec"]

    def meanwhile(root, category, dataset, without):
        listing = read(root, category, dataset, without)
        bottle.unlink()
        bottle.symlink_to(second)
        return listing

    with monkeypatch.context() as patch:
        patch.setitem(READERS, "mvtec", meanwhile)
        raced = load_split(own.dataset, "bottle", seed=1)
    bottle.unlink()
    bottle.symlink_to(first)
    again = load_split(own.dataset, "bottle", seed=1)
    assert raced.train[0].digest == sha256(second / "train/good/000.png")
    assert again.train[0].digest == sha256(first / "train/good/000.png")
