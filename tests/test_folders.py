"""Folders of images: order, splits, classes, and what is said of what is left out."""

import contextlib
import os
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from elsjax.data import image_files
from elsjax.data.datasets import load_dataset


def make(root, *names):
    """Writes images of one grey level each, 1, 2, ... in the order of the names."""
    for level, name in enumerate(names, 1):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2), level).save(path)


def levels(dataset):
    return dataset.pixels[:, 0, 0, 0].tolist()


def test_classes_and_files_in_natural_order(tmp_path):
    make(tmp_path, *(f"{label}/{file}.png" for label in range(11) for file in (2, 10)))
    data = load_dataset(tmp_path)
    assert data.label_names == tuple(map(str, range(11)))
    assert data.labels.tolist() == np.repeat(range(11), 2).tolist()
    assert levels(data) == list(range(1, 23))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a10", "a9", "a1"], ["a1", "a9", "a10"]),
        (["10", "9b", "9a", "b"], ["9a", "9b", "10", "b"]),
        (["1.10", "1.9", "1"], ["1", "1.9", "1.10"]),
        (["01", "1", "001"], ["001", "01", "1"]),
        (["²", "2", "٣", "é", "e\u0301"], ["2", "٣", "e\u0301", "²", "é"]),
        (["cat", "Cat", "CAT"], ["CAT", "Cat", "cat"]),
    ],
)
def test_natural_order(names, expected):
    assert sorted(names, key=image_files._natural) == expected


# Splits


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "test"), ("train", "test")),
        (("Training", "Testing", "val"), ("train", "test", "validation")),
        (("training", "valid"), ("train", "validation")),
        (("TEST", "validation"), ("test", "validation")),
    ],
)
@pytest.mark.parametrize("classes", [("",), ("cat/", "dog/")])
def test_splits_are_honoured(tmp_path, names, splits, classes):
    make(tmp_path, *(f"{name}/{label}a.png" for name in names for label in classes))
    for number, split in enumerate(splits):
        data = load_dataset(tmp_path, split=split)
        assert data.split == split
        first = number * len(classes) + 1
        assert levels(data) == list(range(first, first + len(classes)))
        assert data.label_names == (None if classes == ("",) else ("cat", "dog"))
    (missing,) = {"train", "test", "validation"}.difference(splits) or {"other"}
    with pytest.raises(ValueError, match=f"split='{missing}' is not known; expected one of .*t"):
        load_dataset(tmp_path, split=missing)


def test_a_label_means_the_same_class_in_each_split(tmp_path):
    make(tmp_path, "train/0/a.png", "train/1/a.png", "train/10/a.png", "test/10/b.png")
    make(tmp_path, "test/2/b.png")
    for split, labels in (("train", [0, 1, 3]), ("test", [2, 3])):
        data = load_dataset(tmp_path, split)
        assert data.label_names == ("0", "1", "2", "10")
        assert data.labels.tolist() == labels


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["train/a.png", "cat/a.png"], r"a split \(train\) beside what is none \(cat\)"),
        (["train/c/a.png", "test/c/a.png", "b.png"], r"beside what is none \(b\.png\)"),
        (["train/a.png", "Training/a.png"], "Training and train, which are both the split 'train'"),
        (["val/c/a.png", "validation/c/a.png"], "are both the split 'validation'"),
        (["train/c/d/a.png"], "train: c/d holds images, one level below"),
        (["train/c/a.png", "train/b.png"], r"holds images \(b\.png\) as well as"),
    ],
)
def test_half_a_split_is_refused(tmp_path, names, match):
    make(tmp_path, *names)
    with pytest.raises(ValueError, match=match):
        load_dataset(tmp_path)


# What is left out


@pytest.mark.parametrize(
    ("names", "nested"),
    [
        (["cat/a.png", "cat/old/b.png"], "cat/old"),
        (["cat/a.png", "dog/old/older/b.png"], "dog/old"),
        (["cat/a.png", "new\nline/old/b.png"], r"new\\nline/old"),
    ],
)
def test_nested_classes_are_refused(tmp_path, names, nested):
    make(tmp_path, *names)
    with pytest.raises(ValueError) as error:
        load_dataset(tmp_path)
    assert f"{nested.replace(chr(92) * 2, chr(92))} holds images" in str(error.value)
    assert "\n" not in str(error.value)


def test_links_that_go_round_end(tmp_path):
    make(tmp_path, "cat/a.png", "dog/a.png")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="cat/loop holds images"):
        load_dataset(tmp_path)
    (tmp_path / "cat" / "loop").unlink()
    (tmp_path / "bird").symlink_to("cat")
    assert load_dataset(tmp_path).label_names == ("bird", "cat", "dog")
    (tmp_path / "bird").unlink()
    (tmp_path / "self").symlink_to("self")
    with pytest.warns(UserWarning, match=r"left out: 1 without an image \(self\)"):
        load_dataset(tmp_path)


def test_what_is_left_out_is_said(tmp_path):
    make(tmp_path, "cat/a.png", "dog/a.png")
    for name in ("labels.csv", "cat/b.heic", "cat/new\nline.txt", "dog/c.png.part", "dog/x"):
        (tmp_path / name).write_text("x")
    for name in ("empty", "dog/more/none"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dog" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "cat" / "bad.png").write_bytes(b"bad")
    with pytest.warns(UserWarning, match="left out") as caught:
        data = load_dataset(tmp_path, skip_unreadable=True)
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message) == (
        f"{tmp_path}: left out: 8 without an image (labels.csv, cat/b.heic, cat/new\\nline.txt, "
        "dog/c.png.part, ...); 1 unreadable (cat/bad.png)"
    )
    assert levels(data) == [1, 2]


def test_debris_is_passed_over_in_silence(tmp_path):
    make(tmp_path, "cat/a.png", "__MACOSX/._a.png", ".thumbnails/a.png", "__MACOSX/cat/a.png")
    for name in (".DS_Store", "Thumbs.db", "cat/desktop.ini", "cat/._a.png"):
        (tmp_path / name).write_text("x")
    data = load_dataset(tmp_path)
    assert (len(data), data.label_names) == (1, ("cat",))


@pytest.mark.parametrize("suffix", ["pgm", "PPM", "pbm", "pnm", "jfif", "tga", "jpe", "dib"])
def test_kinds_of_images(tmp_path, suffix):
    image = Image.new("1" if suffix == "pbm" else "RGB", (3, 2))
    image.save(tmp_path / f"a.{suffix}")
    assert load_dataset(tmp_path).pixels.shape[:3] == (1, 2, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_a_name_that_is_not_unicode(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", folder + b"/a.png")
    assert len(load_dataset(tmp_path)) == 1


def test_a_bomb_is_one_error(tmp_path, monkeypatch):
    make(tmp_path, "a.png")
    for pixels in (5, 2):  # Pillow warns of more than that, and raises at twice as much
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(ValueError, match=r"a\.png cannot be read .*decompression bomb"):
            load_dataset(tmp_path)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "jpeg"])
def test_a_damaged_tiff_is_one_error(tmp_path, capfd, compression):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.tif"
    Image.fromarray(rng.integers(0, 256, (9, 8, 3), np.uint8)).save(path, compression=compression)
    whole = path.read_bytes()
    for place in rng.integers(8, len(whole), 40):
        path.write_bytes(whole[:place] + rng.bytes(4) + whole[place + 4 :])
        with contextlib.suppress(ValueError):
            load_dataset(tmp_path)
    assert capfd.readouterr() == ("", "")


# Limits


def test_a_limit_takes_evenly_from_the_classes(tmp_path):
    names = ["a/0", "a/1", "a/2", "a/3", "b/0", "c/0", "c/1", "c/2"]
    make(tmp_path, *(f"{name}.png" for name in names))
    for limit, expected in ((3, [1, 5, 6]), (4, [1, 2, 5, 6]), (5, [1, 2, 5, 6, 7])):
        data = load_dataset(tmp_path, limit=limit)
        assert levels(data) == expected
        assert data.label_names == ("a", "b", "c")
        assert data.labels.tolist() == [0 if n < 5 else 1 if n < 6 else 2 for n in expected]
    assert levels(load_dataset(tmp_path, limit=8)) == levels(load_dataset(tmp_path))
    with pytest.warns(UserWarning, match=r"no image of 1 of the 3 classes .* limit=2 .*: c$"):
        data = load_dataset(tmp_path, limit=2)
    assert (data.labels.tolist(), data.label_names) == ([0, 1], ("a", "b", "c"))


def test_a_limit_counts_images_that_can_be_read(tmp_path):
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    (tmp_path / "b" / "1.png").write_bytes(b"bad")
    with pytest.warns(UserWarning, match="1 unreadable"):
        data = load_dataset(tmp_path, limit=3, skip_unreadable=True)
    assert levels(data) == [1, 2, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="limit=4 is more than the 3 images"):
            load_dataset(tmp_path, limit=4, skip_unreadable=True)


# What is no folder


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("a.png", "a.png' is a single image; expected one of .*folder of images"),
        ("a.txt", "a.txt' is a file of another kind"),
        ("gone", "gone' is not known"),
        ("n\0ul", "is not known"),
        ("long" * 100, "is not known"),
        ("a.txt/inside", "is not known"),
    ],
)
def test_paths_that_are_no_folder(tmp_path, name, match):
    make(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=match):
        load_dataset(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["", "~no-such-user/x", None, 3, b"mnist5k", ["mnist5k"]])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="name="):
        load_dataset(name)
