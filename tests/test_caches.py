"""Caches save time and nothing else: damaged, they are built again; unwritable, done without."""

import concurrent.futures
import json
import os
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from elsjax import cli, storage
from elsjax.data import datasets, tfds_source
from elsjax.posterior import index
from elsjax.posterior.dictionaries import Dictionary
from elsjax.posterior.index import build

ARRAYS = {
    "places": np.arange(6, dtype=np.int32).reshape(2, 3),
    "centres": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4),
    "empty": np.zeros((0, 3), np.uint16),
    "scalar": np.asarray(0.5),
}


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def kept(cache_dir) -> Path:
    """A file of cached arrays."""
    storage.keep("indices", "name", ARRAYS)
    return cache_dir / "indices" / "name.npz"


def assert_same(found, expected=ARRAYS):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_is_kept_is_read(kept):
    assert_same(storage.read_cached("indices", "name"))
    assert storage.read_cached("indices", "other") is None
    assert storage.read_cached("datasets", "name") is None
    assert [path.name for path in kept.parent.iterdir()] == ["name.npz"]


def test_any_flipped_byte_is_noticed(kept):
    whole = kept.read_bytes()
    rng = np.random.default_rng(0)
    places = {*range(600), *range(len(whole) - 600, len(whole))}
    places |= set(rng.integers(0, len(whole), 200).tolist())
    noticed = 0
    for place in sorted(places):
        flip = int(rng.integers(1, 256))
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = storage.read_cached("indices", "name")
        if found is None:
            (warning,) = caught
            assert str(warning.message).startswith(f"{kept} is damaged (")
            assert "\n" not in str(warning.message)
            noticed += 1
        else:  # a date, say, of which nothing depends
            assert not caught
            assert_same(found)
    assert noticed > len(places) / 2


def _with(**changed):
    """Damage that puts other arrays beside the checksum of what was kept."""

    def damage(path):
        with np.load(path) as archive:
            checksum = archive["sha256"]
        arrays = {name: array for name, array in (ARRAYS | changed).items() if array is not None}
        np.savez(path, **arrays, sha256=checksum)

    return damage


def _as(content):
    """Damage that makes something else of the bytes."""
    return lambda path: path.write_bytes(content(path.read_bytes()))


def _other_name(path):
    storage.keep("indices", "other", ARRAYS)
    os.replace(path.with_name("other.npz"), path)


def _single(path):
    with path.open("wb") as file:
        np.save(file, PLACES)


def _folder(path):
    path.unlink()
    path.mkdir()


PLACES = ARRAYS["places"]
DAMAGE = {
    "empty": _as(lambda whole: b""),
    "one byte": _as(lambda whole: whole[:1]),
    "half": _as(lambda whole: whole[: len(whole) // 2]),
    "last byte gone": _as(lambda whole: whole[:-1]),
    "zeros": _as(lambda whole: bytes(len(whole))),
    "a web page": _as(lambda whole: b"<html>404</html>"),
    "another archive": _as(lambda whole: whole.replace(b"places.npy", b"spaces.npy")),
    "a single array": _single,
    "no checksum": lambda path: np.savez(path, **ARRAYS),
    "pickled": _with(scalar=np.array([None])),
    "type": _with(places=PLACES.astype(np.int64)),
    "byte order": _with(places=PLACES.astype(">i4")),
    "shape": _with(places=PLACES.reshape(3, 2)),
    "value": _with(scalar=np.asarray(0.25)),
    "one array less": _with(places=None),
    "one array more": _with(more=np.zeros(1)),
    "another's": _other_name,
    "a folder": _folder,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_said_and_mended(kept, damage):
    DAMAGE[damage](kept)
    with pytest.warns(UserWarning, match="name.npz is damaged .* building it again") as caught:
        assert storage.read_cached("indices", "name") is None
    assert len(caught) == 1
    if damage == "a folder":  # which may be anyone's
        with pytest.warns(UserWarning, match="name is not cached in indices, only in memory"):
            storage.keep("indices", "name", ARRAYS)
        assert not list(kept.iterdir())
    else:
        storage.keep("indices", "name", ARRAYS)
        assert_same(storage.read_cached("indices", "name"))
    assert list(kept.parent.iterdir()) == [kept]


# Where nothing can be written


def _parent_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path / "file" / "cache"))


def _cache_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path / "file"))


def _no_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ELSJAX_CACHE_DIR")
    monkeypatch.setattr(storage.platformdirs, "user_cache_path", lambda *a, **k: Path("~/.cache"))


def _no_permission(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied", "cache")

    monkeypatch.setattr(storage.tempfile, "mkstemp", refuse)


def _read_only(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise OSError(30, "Read-only file system", "cache")

    monkeypatch.setattr(Path, "mkdir", refuse)


def _no_space(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)


def _name_too_long(tmp_path, monkeypatch):
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path / ("long" * 100)))


UNWRITABLE = [
    _parent_is_a_file,
    _cache_is_a_file,
    _no_home,
    _no_permission,
    _read_only,
    _no_space,
    _name_too_long,
]


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def tiny_mnist(tmp_path_factory, monkeypatch):
    """A data_dir with a description of a three-digit MNIST."""
    data_dir = tmp_path_factory.mktemp("tfds")
    directory = data_dir / "mnist" / "3.0.1"
    directory.mkdir(parents=True)
    splits = [{"name": "train", "shardLengths": ["3"]}]
    info = {"fileFormat": "array_record", "splits": splits}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    digits = np.random.default_rng(1).integers(0, 256, (3, 28, 28, 1), np.uint8)

    def records(prepared, split, count):
        return ({"image": digits[i], "label": i} for i in range(count))

    monkeypatch.setattr(tfds_source, "_records", records)
    return data_dir, digits


IMAGES = np.random.default_rng(1).integers(0, 3, (50, 8, 8, 1)).astype(np.uint8) * 127


def _load_index(images=IMAGES):
    return index.load_or_build(images, Dictionary("els", images.shape[1:], 3).parts[0])


@pytest.mark.parametrize("obstacle", UNWRITABLE)
def test_an_unwritable_cache_costs_a_warning_and_not_the_data(
    tmp_path, monkeypatch, tiny_mnist, obstacle
):
    data_dir, digits = tiny_mnist
    obstacle(tmp_path, monkeypatch)
    before = _files(tmp_path)
    with pytest.warns(UserWarning, match="not cached in datasets, only in memory") as caught:
        found = datasets.load_dataset("mnist", data_dir=data_dir)
    assert len(caught) == 1
    np.testing.assert_array_equal(found.pixels, digits)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("obstacle", [_parent_is_a_file, _no_space])
def test_an_unwritable_cache_costs_a_warning_and_not_the_index(tmp_path, monkeypatch, obstacle):
    expected = _load_index()
    with monkeypatch.context() as patch:
        patch.setenv("ELSJAX_CACHE_DIR", str(tmp_path / "other"))
        obstacle(tmp_path, patch)
        with pytest.warns(UserWarning, match="not cached in indices, only in memory"):
            found = _load_index()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("obstacle", [_parent_is_a_file, _no_home, _read_only])
def test_commands_do_without_a_cache_of_programs(tmp_path, monkeypatch, capsys, obstacle):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    obstacle(tmp_path, monkeypatch)
    chosen = jax.config.jax_compilation_cache_dir
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cli.main(["zoo"]) == 0
    said = capsys.readouterr().err + "".join(str(warning.message) for warning in caught)
    assert said.count("compiled programs are not kept") == 1
    assert jax.config.jax_compilation_cache_dir == chosen


# What is cached


def test_an_index_is_kept(cache_dir, monkeypatch):
    first = _load_index()
    (file,) = (cache_dir / "indices").iterdir()
    monkeypatch.setattr(build, "build_index", None)  # not to be called again
    jax.tree.map(np.testing.assert_array_equal, first, _load_index())
    with pytest.raises(TypeError):
        _load_index(IMAGES[::-1])  # other data
    assert list((cache_dir / "indices").iterdir()) == [file]


def _load_pixels(data_dir):
    return datasets.load_dataset("mnist", data_dir=data_dir).pixels


@pytest.mark.parametrize("place", [0, 30, 140, 300, -300, -30])
@pytest.mark.parametrize("kind", ["indices", "datasets"])
def test_what_is_damaged_is_built_again(cache_dir, tiny_mnist, kind, place):
    data_dir, _ = tiny_mnist

    def load():
        return _load_index() if kind == "indices" else _load_pixels(data_dir)

    first = load()
    (file,) = (cache_dir / kind).iterdir()
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    file.write_bytes(damaged if place else b"")
    with pytest.warns(UserWarning, match="is damaged .* building it again"):
        second = load()
    jax.tree.map(np.testing.assert_array_equal, first, second)
    jax.tree.map(np.testing.assert_array_equal, first, load())  # warns no more


def test_two_keep_the_same_at_once(kept):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [pool.submit(storage.keep, "indices", "name", ARRAYS) for _ in range(50)]
        while not all(job.done() for job in running):
            assert_same(storage.read_cached("indices", "name"))
    assert [job.result() for job in running] == [None] * 50
    assert list(kept.parent.iterdir()) == [kept]
