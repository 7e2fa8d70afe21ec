"""TFDS data sets: found, prepared, decoded and cached; and what is damaged."""

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import prepared
import pytest
from PIL import Image

from elsjax.data import datasets, tfds_source

pytestmark = pytest.mark.usefixtures("cache_dir")


# Finding, preparing and caching, on a stand-in of three digits


DIGITS = np.random.default_rng(1).integers(0, 256, (3, 28, 28, 1), np.uint8)


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """A data_dir with a description of a three-digit MNIST; counts how often it is decoded."""

    def describe(version, count, file_format="array_record"):
        directory = tmp_path / "tfds" / "mnist" / version
        directory.mkdir(parents=True)
        splits = [{"name": "train", "shardLengths": [str(count)]}]
        info = {"fileFormat": file_format, "splits": splits}
        (directory / "dataset_info.json").write_text(json.dumps(info))

    def records(prepared, split, count):
        decoded.append(count)
        return ({"image": DIGITS[i], "label": i} for i in range(count))

    decoded = []
    describe("3.0.1", 3)
    describe("3.0.0", 7)
    describe("9.9.9", 7, file_format="tfrecord")
    monkeypatch.setattr(tfds_source, "_records", records)
    return tmp_path / "tfds", decoded


def test_newest_array_record_version_is_found(tiny_mnist):
    data_dir, _ = tiny_mnist
    assert tfds_source.find("mnist", data_dir).directory.name == "3.0.1"


def test_decoded_once_then_cached(tiny_mnist, cache_dir):
    data_dir, decoded = tiny_mnist
    done = []
    first = datasets.load_dataset(
        "mnist", data_dir=data_dir, progress=lambda *step: done.append(step)
    )
    second = datasets.load_dataset("mnist", data_dir=data_dir)
    limited = datasets.load_dataset("mnist", data_dir=data_dir, limit=2)
    assert decoded == [3]
    assert done == [(1, 3), (2, 3), (3, 3)]
    (cache,) = cache_dir.iterdir()
    assert cache.name.startswith("mnist-3.0.1-train-")
    assert not (data_dir / "elsjax").exists()
    for dataset in (first, second):
        np.testing.assert_array_equal(dataset.pixels, DIGITS)
        np.testing.assert_array_equal(dataset.labels, [0, 1, 2])
    np.testing.assert_array_equal(limited.pixels, DIGITS[:2])
    np.testing.assert_array_equal(limited.labels, [0, 1])


def test_limit_decodes_only_what_is_asked_for(tiny_mnist, cache_dir):
    data_dir, decoded = tiny_mnist
    datasets.load_dataset("mnist", data_dir=data_dir, limit=2)
    assert decoded == [2]
    assert not cache_dir.exists()


def test_each_image_size_has_its_cache(tiny_mnist):
    data_dir, decoded = tiny_mnist
    for size in (None, 28, 32, 32):
        pixels = datasets.load_dataset("mnist", data_dir=data_dir, image_size=size).pixels
    expected = Image.fromarray(DIGITS[2, ..., 0]).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels[2, ..., 0], np.asarray(expected))
    assert decoded == [3, 3]


def test_dataset_without_labels(tmp_path, monkeypatch):
    directory = tmp_path / "celeb_a" / "2.1.0"
    directory.mkdir(parents=True)
    splits = [{"name": "test", "shardLengths": ["1", "1"]}]
    info = {"fileFormat": "array_record", "splits": splits}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    faces = np.random.default_rng(2).integers(0, 256, (2, 218, 178, 3), np.uint8)
    decoded = []

    def records(prepared, split, count):
        decoded.append(split)
        return ({"image": face} for face in faces)

    monkeypatch.setattr(tfds_source, "_records", records)
    for _ in range(2):
        dataset = datasets.load_dataset("celeb_a", "test", image_size=32, data_dir=tmp_path)
        expected = Image.fromarray(faces[1]).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(dataset.pixels[1], np.asarray(expected))
        assert len(dataset) == 2
        assert dataset.labels is None
        assert dataset.label_names is None
    assert decoded == ["test"]


def test_the_cache_tells_data_dirs_and_lengths_apart(tiny_mnist, cache_dir):
    data_dir, decoded = tiny_mnist
    datasets.load_dataset("mnist", data_dir=data_dir)
    shutil.copytree(data_dir, data_dir.with_name("copy"))
    datasets.load_dataset("mnist", data_dir=data_dir.with_name("copy"))
    info = data_dir / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text().replace('"3"', '"2"'))
    assert len(datasets.load_dataset("mnist", data_dir=data_dir)) == 2
    assert decoded == [3, 3, 2]
    assert len(list(cache_dir.iterdir())) == 3


def test_split_and_limit_are_checked_before_decoding(tiny_mnist):
    data_dir, decoded = tiny_mnist
    with pytest.raises(ValueError, match="split='test'.*expected one of train"):
        datasets.load_dataset("mnist", split="test", data_dir=data_dir)
    with pytest.raises(ValueError, match="limit=4 is more than the 3 images of mnist"):
        datasets.load_dataset("mnist", limit=4, data_dir=data_dir)
    assert decoded == []


@pytest.mark.parametrize("name", ["mnist", "celeb_a"])
def test_unprepared_without_tensorflow(tmp_path, name, monkeypatch, capfd):
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: None)
    match = f"name='{name}' is not prepared.*{tmp_path}.*TensorFlow.*tfds build {name}"
    with pytest.raises(ValueError, match=match):
        datasets.load_dataset(name, data_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_preparation_in_another_format_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(
        ValueError, match="mnist exists, but unfinished, damaged or in another format"
    ):
        datasets.load_dataset("mnist", data_dir=tmp_path)


def test_unprepared_without_a_network(tmp_path, monkeypatch):
    def unreachable(request, timeout):
        assert timeout <= 10
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(ValueError, match="celeb_a.*cannot be reached.*no route to host"):
        datasets.load_dataset("celeb_a", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_failed_preparation_leaves_nothing(tmp_path, monkeypatch, capfd):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Builder:
        def __init__(self, name, data_dir, file_format):
            self.directory = Path(data_dir) / name
            assert file_format == "array_record"

        def download_and_prepare(self):
            self.directory.mkdir()
            print("Downloading...")
            raise RuntimeError("broken archive\nwith details")

    monkeypatch.setattr(tfds_source, "_obstacle", lambda name, data_dir: None)
    monkeypatch.setattr(tfds, "builder", Builder)
    with pytest.raises(ValueError, match=r"mnist.*\(RuntimeError: broken archive\)"):
        datasets.load_dataset("mnist", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


# Prepared records


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_tfds_records_are_those_that_tfds_reads(name, tfds_dirs, capfd):
    tfds = pytest.importorskip("tensorflow_datasets")
    for directory in tfds_dirs:
        dataset = datasets.load_dataset(name, limit=5, data_dir=directory)
        assert capfd.readouterr() == ("", "")
        source = tfds.data_source(name, split="train", data_dir=directory)
        np.testing.assert_array_equal(dataset.pixels, [source[i]["image"] for i in range(5)])
        np.testing.assert_array_equal(dataset.labels, [source[i]["label"] for i in range(5)])
        assert len(dataset.label_names) == 10


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", prepared.SHAPES)
def test_tfds_records_are_read_once_then_cached(name, split, tfds_dir, cache_dir, capfd):
    first = datasets.load_dataset(name, split, data_dir=tfds_dir)
    (cache,) = cache_dir.iterdir()
    second = datasets.load_dataset(name, split, data_dir=tfds_dir)
    assert cache.name.startswith(f"{name}-{prepared.VERSIONS[name]}-{split}-")
    for dataset in (first, second):
        pixels, labels = prepared.pixels_and_labels(name, split)
        np.testing.assert_array_equal(dataset.pixels, pixels)
        np.testing.assert_array_equal(dataset.labels, labels)
        assert len(dataset.label_names) == 10
    assert capfd.readouterr() == ("", "")


def test_truncated_records_name_the_directory(tmp_path, tfds_dir):
    directory = tmp_path / "mnist" / "3.0.1"
    directory.mkdir(parents=True)
    for file in Path(tfds_dir, "mnist", "3.0.1").iterdir():
        whole = file.read_bytes()
        records = "array_record" in file.name
        (directory / file.name).write_bytes(whole[: len(whole) // 2] if records else whole)
    with pytest.raises(ValueError, match=r"mnist/3\.0\.1, split 'test', cannot be read"):
        datasets.load_dataset("mnist", "test", data_dir=tmp_path)


# What is damaged


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        pytest.param("[" * 100_000, id="deep"),
        '{"fileFormat": "array_record"}',
        '{"fileFormat": "array_record", "splits": []}',
        '{"fileFormat": "array_record", "splits": [{"name": "train"}]}',
        '{"fileFormat": "array_record", "splits": [{"name": "train", "shardLengths": []}]}',
        '{"fileFormat": "array_record", "splits": [{"name": "train", "shardLengths": ["-3"]}]}',
        '{"fileFormat": "array_record", "splits": [{"name": "train", "shardLengths": [Infinity]}]}',
        '{"fileFormat": "array_record", "splits": [{"name": [], "shardLengths": ["0"]}]}',
        '{"fileFormat": "array_record", "splits": "train"}',
        pytest.param("\udcff", id="not UTF-8"),
    ],
)
def test_a_damaged_description_is_no_preparation(tiny_mnist, content):
    data_dir, decoded = tiny_mnist
    for version in ("3.0.1", "3.0.0"):
        path = data_dir / "mnist" / version / "dataset_info.json"
        path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="mnist exists, but unfinished, damaged or in another"):
        datasets.load_dataset("mnist", data_dir=data_dir)
    rows = {row.name: row for row in datasets.available_datasets(data_dir)}
    assert not rows["mnist"].available
    assert decoded == []


def test_an_older_version_serves_where_the_newest_is_damaged(tiny_mnist):
    data_dir, _ = tiny_mnist
    (data_dir / "mnist" / "3.0.1" / "dataset_info.json").write_text("{")
    for name in ("10.0.x", "1.0.0"):
        (data_dir / "mnist" / name).mkdir()
    assert tfds_source.find("mnist", data_dir).directory.name == "3.0.0"


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ({"image": DIGITS[0, :, :, 0], "label": 0}, r"image 0 is uint8 \[28, 28\]; expected uint8"),
        ({"image": DIGITS[0, :1, :1], "label": 0}, r"image 0 is uint8 \[1, 1, 1\]"),
        ({"image": DIGITS[0].astype(float), "label": 0}, "image 0 is float64"),
        ({"label": 0}, "image 0 is object"),
        ({"image": DIGITS[0], "label": 10}, "image 0 has label 10; expected 0 to 9"),
        ({"image": DIGITS[0]}, "image 0 has label -1; expected"),
    ],
)
def test_records_that_are_not_of_the_data_set(tiny_mnist, monkeypatch, record, match, cache_dir):
    data_dir, _ = tiny_mnist
    monkeypatch.setattr(tfds_source, "_records", lambda *arguments: [record] * 3)
    with pytest.raises(ValueError, match=f"3.0.1, split 'train': {match}"):
        datasets.load_dataset("mnist", data_dir=data_dir)
    assert not cache_dir.exists()


@pytest.mark.parametrize("fault", ["is a file", "lies in a file", "goes round", "has no user"])
def test_a_data_dir_that_is_none(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "round").symlink_to("round")
    data_dir = {
        "is a file": tmp_path / "file",
        "lies in a file": tmp_path / "file" / "tfds",
        "goes round": tmp_path / "round",
        "has no user": "~no-such-user/tfds",
    }[fault]
    with pytest.raises(ValueError, match="is a file" if fault == "is a file" else "not prepared"):
        datasets.load_dataset("mnist", data_dir=data_dir)


def test_missing_records_name_the_directory(tmp_path, tfds_dir):
    directory = tmp_path / "mnist" / "3.0.1"
    directory.mkdir(parents=True)
    for file in Path(tfds_dir, "mnist", "3.0.1").glob("*.json"):
        (directory / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"mnist/3\.0\.1, split 'test', cannot be read") as error:
        datasets.load_dataset("mnist", "test", data_dir=tmp_path)
    assert "\n" not in str(error.value)
