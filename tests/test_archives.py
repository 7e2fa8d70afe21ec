"""Archives of images: what their arrays are called, how they are scaled and laid out."""

import warnings

import numpy as np
import pytest

from elsjax.data.datasets import load_dataset

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)
LABELS = np.array([3, 0, 1, 3])


def load(tmp_path, **arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    return load_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("x", "y"),
        ("X", "y"),
        ("X", "Y"),
        ("data", "targets"),
        ("image", "label"),
        ("arr_0", "arr_1"),
        ("x_train", "y_train"),
        ("X_train", "Y_train"),
        ("train_images", "train_labels"),
        ("data_training", "target_training"),
    ],
)
def test_usual_names(tmp_path, images, labels):
    data = load(tmp_path, **{labels: LABELS, images: PIXELS, "ids": np.arange(9)})
    np.testing.assert_array_equal(data.pixels, PIXELS)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert load(tmp_path, **{images: PIXELS, "ids": np.arange(9)}).labels is None


def test_the_documented_names_win(tmp_path):
    data = load(tmp_path, images=PIXELS, labels=LABELS, data=np.zeros(3), y=np.zeros(3))
    np.testing.assert_array_equal(data.labels, LABELS)


@pytest.mark.parametrize(
    ("test_images", "test_labels", "split"),
    [("x_test", "y_test", "test"), ("val_images", "val_labels", "validation")],
)
def test_splits(tmp_path, test_images, test_labels, split):
    arrays = {"x_train": PIXELS, "y_train": LABELS, test_images: PIXELS[:2], test_labels: [7, 8]}
    assert len(load(tmp_path, **arrays)) == 4
    data = load_dataset(tmp_path / "a.npz", split=split)
    np.testing.assert_array_equal(data.pixels, PIXELS[:2])
    np.testing.assert_array_equal(data.labels, [7, 8])
    with pytest.raises(
        ValueError, match=f"split='dev' is not known; expected one of train, {split}"
    ):
        load_dataset(tmp_path / "a.npz", split="dev")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["pictures"], "no array 'images'.*it holds 'pictures'"),
        ([], "it holds nothing"),
        (["x", "data"], "any of 'x', 'data' may be the images; name one of them 'images'"),
        (["x", "X"], "any of 'x', 'X' may be the images"),
        (["x_train", "train_images"], "any of 'x_train', 'train_images' may be the images"),
        (["x", "y", "label"], "any of 'y', 'label' may be the labels"),
        (["images", "x_test"], "with a split and without"),
        (["x_test", "y_test"], "split='train' is not known; expected one of test"),
        (["labels", "y_train"], "no array 'images'"),
    ],
)
def test_names_that_say_too_little(tmp_path, names, match):
    with pytest.raises(ValueError, match=match):
        load(tmp_path, **dict.fromkeys(names, PIXELS))


FLOATS = PIXELS / 127.5 - 1


@pytest.mark.parametrize(
    "images",
    [
        PIXELS.astype(np.int64),
        PIXELS.astype(">i2"),
        PIXELS.astype(np.uint16),
        np.asfortranarray(PIXELS),
    ],
)
def test_integers_from_0_to_255_are_pixels(tmp_path, images):
    pixels = load(tmp_path, images=images).pixels
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, PIXELS)


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8", ">f8", np.longdouble])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_of_any_kind(tmp_path, dtype, order):
    images = FLOATS.astype(dtype, order=order)
    pixels = load(tmp_path, images=images).pixels
    assert pixels.dtype == np.dtype("=f4")
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.clip(images.astype(np.float32), -1, 1))


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (PIXELS / 255, r"lies in \[0, 1\].* either reading is possible.*2 \* images - 1"),
        (np.zeros((2, 3, 3)), "either reading is possible"),
        (PIXELS % 2, "nearly black, but its largest value is 1.*255"),
        ((PIXELS % 2).astype(int), "nearly black"),
    ],
)
def test_either_reading_is_possible(tmp_path, images, match):
    with pytest.warns(UserWarning, match=match) as caught:
        load(tmp_path, images=images)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_black_is_black_either_way(tmp_path):
    assert not load(tmp_path, images=np.zeros((2, 3, 3), np.uint8)).pixels.any()


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (PIXELS.astype(np.float32), r"ranges from 0 to 255; expected floats in \[-1, 1\].*uint8\)"),
        (FLOATS * 1.5, r"ranges from -1.5 to 1.5; expected floats in \[-1, 1\], or uint8$"),
        (PIXELS.astype(np.uint16) * 257, "uint16 from 0 to 65535; expected 0 to 255"),
        (PIXELS.astype(int) - 128, "int64 from -128 to 127; expected 0 to 255"),
        (PIXELS > 127, r"dtype bool; .* store 255 \* images"),
        (PIXELS.astype(complex), "dtype complex128"),
        (PIXELS.astype("U3"), "dtype <U3"),
        (PIXELS.astype("V2"), r"dtype \|V2"),
        (np.moveaxis(np.tile(PIXELS, (1, 1, 2, 1)), -1, 1), r"channels first.*transpose\(0, 2, 3"),
        (np.zeros((2, 1, 28, 28)), "channels first"),
        (np.zeros((2, 4, 8, 8), np.uint8), "channels first"),
        (np.zeros((9, 784), np.uint8), r"shape \[9, 784\].*reshape\(-1, 28, 28\)"),
        (np.zeros((32, 32, 3), np.uint8), r"a single colour image.*images\[None\]"),
        (np.zeros((2, 2, 2, 2, 2), np.uint8), r"shape \[2, 2, 2, 2, 2\]; expected \[N, H, W\]"),
        (np.uint8(3), r"shape \[\]; expected"),
    ],
)
def test_images_that_are_refused(tmp_path, images, match):
    with pytest.raises(ValueError, match=match):
        load(tmp_path, images=images)


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS.astype(">u2"), LABELS.astype("f4")])
def test_labels_of_any_kind(tmp_path, labels):
    found = load(tmp_path, images=PIXELS, labels=labels).labels
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, LABELS)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.eye(4), r"one-hot labels, store labels\.argmax\(1\)"),
        (np.eye(4, 7, dtype=int), r"argmax\(1\)"),
        (LABELS + 0.5, "not all are whole numbers"),
        (np.array([0, 1, np.nan, 2]), "not all are whole numbers"),
        (np.array([0, 1, np.inf, 2]), "not all are whole numbers"),
        (np.array(["cat", "dog", "cat", "dog"]), "np.unique.*numbers names"),
        (LABELS[:3], r"'labels' has shape \[3\].*expected integers \[4\], one for each image"),
        (LABELS[None], r"shape \[1, 4\]"),
        (-LABELS, "ranges from -3 to 0"),
        (LABELS.astype(np.uint64) + 2**63, "within int32"),
        (np.array([0, 1, 2, 2**31]), "within int32"),
        (np.array(["cat", None, "cat", "dog"]), "cannot be read.*allow_pickle"),
    ],
)
def test_labels_that_are_refused(tmp_path, labels, match):
    with pytest.raises(ValueError, match=match):
        load(tmp_path, images=PIXELS, labels=labels)


def test_a_limit_that_leaves_classes_out(tmp_path):
    np.savez(
        tmp_path / "a.npz", images=np.tile(PIXELS, (2, 1, 1, 1)), labels=[0, 0, 0, 0, 0, 0, 1, 2]
    )
    with pytest.warns(UserWarning, match="first 5 images are of 1 of 3 classes; shuffle") as caught:
        assert len(load_dataset(tmp_path / "a.npz", limit=5)) == 5
    assert caught[0].filename == __file__


# .npy


@pytest.mark.parametrize("suffix", ["npy", "NPY"])
@pytest.mark.parametrize("images", [PIXELS, FLOATS.astype(np.float32), PIXELS[..., 0]])
def test_npy(tmp_path, images, suffix):
    with (tmp_path / f"a.{suffix}").open("wb") as file:
        np.save(file, images)
    data = load_dataset(tmp_path / f"a.{suffix}", limit=3)
    np.testing.assert_array_equal(data.pixels, images.reshape(4, 6, 5, -1)[:3])
    assert data.labels is None
    with pytest.raises(ValueError, match="split='test' is not known; expected one of train"):
        load_dataset(tmp_path / f"a.{suffix}", split="test")


def test_damaged_files_are_one_error(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", PIXELS)
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    for path in (tmp_path / "a.npy", tmp_path / "a.npz"):
        whole = path.read_bytes()
        places = [
            *range(120),
            *rng.integers(0, len(whole), 60),
            *range(len(whole) - 120, len(whole)),
        ]
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged if place % 3 else damaged[:place])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", ".*either reading|.*nearly black", UserWarning)
                try:
                    load_dataset(path)
                except ValueError as error:
                    assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("zip.npy", "cannot be read as an .npy file"),
        ("npy.npz", "is not an .npz archive"),
        ("gone.npy", "does not exist; expected an .npy file"),
        ("pickled.npy", "allow_pickle"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, match):
    for path, save in (("zip.npy", np.savez), ("npy.npz", np.save)):
        with (tmp_path / path).open("wb") as file:
            save(file, PIXELS)
    np.save(tmp_path / "pickled.npy", np.array([None]))
    with pytest.raises(ValueError, match=f"{name}.*{match}"):
        load_dataset(tmp_path / name)
