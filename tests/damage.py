"""Damage to the files of others and of ours, in their bytes and in what they say."""

import io
import struct
import warnings
import zipfile
from typing import Any, NamedTuple

import numpy as np

Rng = np.random.Generator


def pick(rng: Rng, values: Any) -> Any:
    """One of some values, of any types."""
    return list(values)[rng.integers(len(list(values)))]


def damaged(rng: Rng, content: bytes) -> bytes:
    """Some bytes with a few of them changed, inserted, left out or cut off."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = len(content)
        a, b = sorted(int(i) for i in rng.integers(0, size + 1, 2))
        b = min(b, a + 64)
        match rng.integers(8):
            case 0 | 1 if size:
                content[rng.integers(size)] ^= 1 << rng.integers(8)
            case 2 if size:
                del content[rng.integers(size) :]
            case 3:
                content[a:a] = rng.bytes(rng.integers(1, 9))
            case 4:
                del content[a:b]
            case 5:
                content[a:b] = bytes(b - a)
            case 6:
                content[a:a] = content[a:b]
            case 7 if size > 16:  # early bytes say the most
                content[rng.integers(16)] = rng.integers(256)
    return bytes(content)


WRONG = (None, True, -1, 0, 1, 3, 2.5, 1e300, float("nan"), 2**31, 2**64, "x", "", "zeros", "é☃")
WRONG += ([], {}, [3], [[1]], {"a": 1}, "9" * 40, [float("inf")])


def altered(rng: Rng, tree: Any, wrong: Any = WRONG) -> Any:
    """A tree of dicts, lists and tuples with one node replaced, removed, renamed or added."""
    if not (isinstance(tree, (dict, list, tuple)) and tree) or rng.random() < 0.1:
        return pick(rng, wrong)
    if isinstance(tree, dict):
        tree, key = dict(tree), pick(rng, tree)
        match rng.integers(6):
            case 0:
                del tree[key]
            case 1:
                tree[f"{key}x" if isinstance(key, str) else "x"] = tree.pop(key)
            case 2:
                tree["unknown"] = pick(rng, wrong)
            case _:
                tree[key] = altered(rng, tree[key], wrong)
        return tree
    items, place = list(tree), rng.integers(len(tree))
    named = hasattr(tree, "_fields")
    match 5 if named else rng.integers(6):
        case 0:
            del items[place]
        case 1:
            items.insert(place, pick(rng, wrong))
        case _:
            items[place] = altered(rng, items[place], wrong)
    return type(tree)(*items) if named else type(tree)(items)


def altered_array(rng: Rng, array: np.ndarray) -> np.ndarray:
    """An array of another type, shape, layout or scale, or with other values."""
    array = np.array(array)
    dtypes = ("f2", "f4", "f8", ">f4", ">f8", "i1", "i4", ">i8", "u2", "u8", "?", "c8", "U3", "O")
    match rng.integers(9):
        case 0 | 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return array.astype(pick(rng, dtypes))
        case 2:
            scale, offset = pick(rng, ((1 / 255, 0), (2 / 255, -1), (255, 0), (0, 0), (1e30, 0)))
            return (array * scale + offset).astype(pick(rng, ("f4", "f8")))
        case 3:
            worst = pick(rng, (np.nan, np.inf, -1e30, 7.0))
            array = array.astype(float)
            array.reshape(-1)[: rng.integers(1, 3)] = worst
            return array
        case 4:
            return array[: rng.integers(len(array))] if array.ndim else array[None]
        case 5:
            return np.moveaxis(array, -1, rng.integers(array.ndim)) if array.ndim else -array
        case 6:
            return array[..., None] if rng.random() < 0.5 else array.reshape(-1)
        case 7:
            return np.asfortranarray(array).repeat(pick(rng, (0, 2, 5)), -1 if array.ndim else None)
        case _:
            return np.full(pick(rng, ((), (1,), (3, 3), (6, 4, 4, 1))), array.flat[0])


def arrays_bytes(arrays: dict[str, np.ndarray], compressed: bool = False) -> bytes:
    """An archive of arrays."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def lying_arrays(rng: Rng) -> bytes:
    """An archive whose array is not what its header says."""
    shape = pick(rng, ((6, 4, 4, 1), (10**12, 4, 4), (-1, 4, 4), (2**62, 2**62), (6,), ("a",)))
    descr = pick(rng, ("|u1", "<f4", "|O", "<V9999", "q", "", "|u1,|u1", "<U99999"))
    header = repr({"descr": descr, "fortran_order": pick(rng, (True, False)), "shape": shape})
    version = bytes([pick(rng, (1, 1, 1, 9)), 0])
    header = header.encode() + b"\n"
    member = b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + bytes(96)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in pick(rng, (("images.npy",), ("images",), ("images.npy", "labels.npy"))):
            archive.writestr(name, member)
        if rng.random() < 0.2:
            archive.writestr("../outside.npy", member)
    return file.getvalue()


def changed_arrays(rng: Rng, content: bytes) -> bytes:
    """An archive of arrays with one of them altered, renamed, missing or of objects."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    name = pick(rng, arrays)
    match rng.integers(8):
        case 0:
            return damaged(rng, content)
        case 1:
            del arrays[name]
        case 2:
            others = ("x_train", "arr_0", "data", "image", "unknown", "labels", "x/y")
            arrays[pick(rng, others)] = arrays.pop(name)
        case 3:
            arrays[name] = np.array([{"a": 1}, None], dtype=object)
        case 4:
            arrays["unknown"] = np.arange(3)
        case _:
            arrays[name] = altered_array(rng, arrays[name])
    return arrays_bytes(arrays, compressed=rng.random() < 0.2)


class Name(NamedTuple):
    """A global name in a pickle."""

    module: str
    name: str


class Call(NamedTuple):
    """A call in a pickle."""

    function: Any
    arguments: Any


class Storage(NamedTuple):
    """What a pickle refers to outside itself."""

    reference: Any


def pickled(value: Any) -> bytes:
    """Instructions of a pickle that make a value."""
    match value:
        case Name():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return pickled(value.function) + pickled(value.arguments) + b"R"
        case Storage():
            return pickled(value.reference) + b"Q"
        case bool() | None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[value]
        case int():
            number = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(number)]) + number
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(pickled, value)) + b"t"
        case list():
            return b"](" + b"".join(map(pickled, value)) + b"e"
        case dict():
            items = (pickled(key) + pickled(item) for key, item in value.items())
            return b"}(" + b"".join(items) + b"u"
    raise TypeError(value)
