"""Damaged and absurd inputs of the command line, each made from a number.

Everything is small, and no number stands for a size that would only take for ever. How each input
should end is said in `mutations`.
"""

import contextlib
import io
import json
import os
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flax import nnx
from PIL import Image

import elsjax

_DATA = ("--dataset", "data.npz", "--image-size", "4")
_ONE = ("--num-samples", "1", "--batch-size", "1", "--out", "run")
_NETWORK = ("--network", "net.safetensors", *_DATA, "--num-steps", "2")
SAMPLE = ("sample", *_DATA, "--machine", "ls", "--window", "3", "--num-steps", "2", *_ONE)
COMPARE = ("compare", *_NETWORK, "--machine", "is", "--network-steps", "2", *_ONE)
CALIBRATE = ("calibrate", *_NETWORK, "--candidates", "1", "3", "--num-samples", "1", "--out", "run")
TRAIN = ("train", *_DATA, "--network", "resnet-small", "--batch-size", "2", "--num-steps", "2")
TRAIN += ("--warmup-steps", "0", "--checkpoint-every", "1", "--out", "run")
BENCH = (
    "bench",
    "--machine",
    "is",
    "ls",
    "--window",
    "3",
    "--num-images",
    "5",
    "--image-size",
    "4",
)
BENCH += ("--repetitions", "1", "--out", "run")
_TORCH = {"kind": "resnet", "channels": 1, "emb_dim": 8, "mode": "zeros", "num_layers": 1}
IMPORT = ("import-torch", "net.pt", "--image-size", "4", "--out", "run.safetensors")

Words = list[str]
Rng = np.random.Generator
Run = Callable[[Path, Words], int]


class Case(NamedTuple):
    """A command in a folder of files.

    Attributes:
      kind: what was damaged.
      words: of the command line.
    """

    kind: str
    words: Words


def pick(rng: Rng, values: Any) -> Any:
    """One of some values, of any types."""
    return list(values)[rng.integers(len(list(values)))]


# Damage


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
            array.flat[: rng.integers(1, 3)] = worst
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
            return np.broadcast_to(array.ravel()[:1], pick(rng, ((), (1,), (3, 3), (6, 4, 4, 1))))


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


# Files that a case starts from


def data_file() -> bytes:
    """A data set of six images in three classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 4, 1), np.uint8)
    return arrays_bytes({"images": images, "labels": np.array([0, 1, 2, 0, 1, 2])})


def foreign(folder: Path) -> None:
    """What is not ours and must stay."""
    (folder / "notes.txt").write_text("mine")
    (folder / "real").mkdir()
    (folder / "real" / "keep.txt").write_text("mine too")
    (folder / "link").symlink_to("real")


def start(run: Run, folder: Path, words: Words, writes: int) -> None:
    """Runs a command up to its n-th file, as if it were killed there."""
    left, replace = writes, os.replace

    def until(*arguments: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        replace(*arguments)

    os.replace = until  # type: ignore[assignment]
    try:
        status = run(folder, words)
    finally:
        os.replace = replace  # type: ignore[assignment]
    assert status == 130, (words, status)


class Stock:
    """What cases start from, made once.

    Args:
      folder: scratch folder.
      cache: where the commands keep their caches.
      run: runs words of the command line in a folder and returns the status.
    """

    def __init__(self, folder: Path, cache: Path, run: Run) -> None:
        self.folder = folder
        self._run = run
        self.cache = cache
        self._made: dict[tuple[str, int], Path] = {}
        self._indices: Path | None = None
        network = elsjax.nn.ResNet((4, 4, 1), width=8, num_layers=1, rngs=nnx.Rngs(0))
        folder.mkdir(parents=True, exist_ok=True)
        elsjax.save_network(network, folder / "net.safetensors")
        self.network = (folder / "net.safetensors").read_bytes()

    def basics(self, folder: Path) -> None:
        """A folder with foreign files, data and a network."""
        folder.mkdir(parents=True)
        foreign(folder)
        (folder / "data.npz").write_bytes(data_file())
        (folder / "net.safetensors").write_bytes(self.network)

    def partial(self, words: Words, writes: int) -> Path:
        """The folder of a command that was killed after some files."""
        key = (words[0], writes)
        if key not in self._made:
            folder = self.folder / f"{words[0]}-{writes}"
            self.basics(folder)
            start(self._run, folder, words, writes)
            self._made[key] = folder / "run.partial"
        return self._made[key]

    def indices(self, words: Words) -> Path:
        """The cached index of a command."""
        if self._indices is None:
            folder = self.folder / "indexed"
            self.basics(folder)
            assert self._run(folder, words) == 0
            self._indices = self.folder / "indices"
            shutil.copytree(self.cache / "indices", self._indices)
        return self._indices


# Kinds of cases: each writes files into a folder and says which command reads them


def npz(rng: Rng, folder: Path, stock: Stock) -> Words:
    """An archive as data set."""
    name = pick(rng, ("data.npz", "data.npz", "other.npz", "data.npy", "data.NPZ", "däta☃.npz"))
    content = pick(rng, (changed_arrays, changed_arrays, lambda r, _: lying_arrays(r)))(
        rng, data_file()
    )
    if name.endswith("npy"):
        file = io.BytesIO()
        np.save(file, altered_array(rng, np.zeros((6, 4, 4, 1), np.uint8)))
        content = file.getvalue()
    if rng.random() < 0.05:
        content = pick(rng, (b"", b"PK", b"text", stock.network))
    (folder / name).write_bytes(content)
    words = [*SAMPLE, *pick(rng, ((), (), ("--limit", "5"), ("--label", "1"), ("--machine", "is")))]
    words[words.index("data.npz")] = name
    return [*words, *pick(rng, ((), (), (), ("--image-size", "None")))]


def _picture(rng: Rng, name: str) -> bytes:
    """An image of an odd kind."""
    modes = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "HSV", "YCbCr")
    sizes = ((4, 4), (4, 4), (4, 4), (1, 1), (1, 9), (30, 2), (5, 4))
    image = Image.fromarray(rng.integers(0, 256, (9, 30, 3), np.uint8)).resize(pick(rng, sizes))
    mode = pick(rng, modes) if rng.random() < 0.4 else "L"
    with contextlib.suppress(ValueError):
        image = image.convert(mode) if mode != "PA" else image.convert("P").convert("PA")
    file = io.BytesIO()
    format_ = pick(rng, ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"))
    try:
        image.save(file, format_, **({"save_all": True} if format_ == "GIF" else {}))
    except (OSError, ValueError, KeyError):
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")
    content = file.getvalue()
    if rng.random() < 0.2:
        content = damaged(rng, content)
    if rng.random() < 0.1 and content.startswith(b"\x89PNG"):  # says to be huge
        content = content[:16] + struct.pack(">II", 60_000, 60_000) + content[24:]
    return content


def images(rng: Rng, folder: Path, _: Stock) -> Words:
    """A folder of images as data set."""
    photos = folder / "photos"
    places = pick(rng, (("",), ("",), ("0", "10", "2"), ("train", "test"), ("a", ""), ("a/b", "c")))
    names = ["a.png", "b.PNG", "c.jpg", "d.gif", "e.tif", "ü☃.bmp", ".hid.png", "f.txt", "g.pgm"]
    names += ["new\nline.png", "noend", "h.webp", "\udcff.png", "i.png.png"]
    for place in places:
        (photos / place).mkdir(parents=True, exist_ok=True)
        for name in rng.choice(names, rng.integers(1, 4), replace=False).tolist():
            (photos / place / name).write_bytes(_picture(rng, name))
        match rng.integers(20):
            case 0:
                (photos / place / "z.png").symlink_to("missing.png")
            case 1:
                (photos / place / "loop").symlink_to("..")
            case 2:
                (photos / place / "y.png").mkdir()
            case 3:
                (photos / place / "z.png").write_bytes(b"")
    words = [*SAMPLE, *pick(rng, ((), ("--skip-unreadable",), ("--image-size", "None")))]
    words[words.index("data.npz")] = pick(rng, ("photos", "photos", "photos/", "photos/a.png"))
    return [*words, *pick(rng, ((), (), ("--limit", "2"), ("--split", "test"), ("--label", "1")))]


def network(rng: Rng, folder: Path, stock: Stock) -> Words:
    """A network's file."""
    content = stock.network
    size = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + size]), content[8 + size :]
    match rng.integers(6):
        case 0:
            content = damaged(rng, content)
        case 1:
            content = damaged(rng, content[: 8 + size]) + numbers
        case 2:
            text = json.dumps(altered(rng, header)).encode()
            content = struct.pack("<Q", len(text)) + text + numbers
        case 3 | 4:
            config = json.loads(header["__metadata__"]["network"])
            config = altered(rng, config, (*WRONG, (8, 8, 1), 5, 40, "circular", "bfloat16"))
            header["__metadata__"]["network"] = json.dumps(config)
            text = json.dumps(header).encode()
            content = struct.pack("<Q", len(text)) + text + numbers
        case _:
            tensors = safetensors.numpy.load(content)
            name = pick(rng, tensors)
            tensors[name] = altered_array(rng, tensors[name])
            with contextlib.suppress(Exception):  # what the format does not know
                content = safetensors.numpy.save(tensors, header["__metadata__"])
    (folder / "net.safetensors").write_bytes(content)
    beside = {"dataset": "data.npz", "split": "train", "num_images": 6}
    (folder / "config.json").write_text(json.dumps(altered(rng, beside)))
    words = list(pick(rng, (COMPARE, COMPARE, COMPARE, CALIBRATE)))
    if rng.random() < 0.2:  # of what it was trained on
        del words[words.index("--dataset") : words.index("--dataset") + 2]
    return words


def index(rng: Rng, folder: Path, stock: Stock) -> Words:
    """A cached index of patches."""
    words = [*SAMPLE, "--tolerance", "0.1", "--machine", "els"]
    cached = stock.indices(words)
    shutil.rmtree(stock.cache / "indices", ignore_errors=True)
    shutil.copytree(cached, stock.cache / "indices")
    file = pick(rng, sorted((stock.cache / "indices").iterdir()))
    content = file.read_bytes()
    try:
        content = changed_arrays(rng, content)
    except Exception:  # of a format of its own
        content = damaged(rng, content)
    if rng.random() < 0.5:
        content = damaged(rng, file.read_bytes())
    if rng.random() < 0.1:
        content = b""
    file.write_bytes(content)
    return words


def partial(rng: Rng, folder: Path, stock: Stock) -> Words:
    """A run that was killed."""
    words, writes = pick(
        rng,
        (
            *((SAMPLE, n) for n in (1, 2, 3)),
            *((COMPARE, n) for n in (1, 3, 4, 5)),
            *((CALIBRATE, n) for n in (2, 4)),
            (BENCH, 2),
            (TRAIN, 7),
        ),
    )
    shutil.copytree(stock.partial(list(words), writes), folder / "run.partial", symlinks=True)
    files = sorted(path for path in (folder / "run.partial").rglob("*") if path.is_file())
    file = pick(rng, files)
    content = file.read_bytes()
    match rng.integers(8):
        case 0:
            content = pick(rng, (b"", b"{}", b"[]", b"null", b"PK", b"\xff\xfe", b"[" * 100_000))
        case 1:
            content = pick(rng, files).read_bytes()
        case _ if file.suffix == ".json" and rng.random() < 0.8:
            content = json.dumps(altered(rng, json.loads(content))).encode()
        case _ if file.suffix == ".npz" and rng.random() < 0.8:
            content = changed_arrays(rng, content)
        case _:
            content = damaged(rng, content)
    file.write_bytes(content)
    match rng.integers(12):
        case 0:
            file.unlink()
        case 1:
            (folder / "run.partial" / "notes.txt").write_text("mine")
        case 2:
            file.unlink()
            file.mkdir()
    changes = ((), (), (), ("--seed", "1"), ("--num-steps", "3"), ("--overwrite",))
    return [*words, *(pick(rng, changes) if words is not BENCH else ())]


def windows(rng: Rng, folder: Path, _: Stock) -> Words:
    """Windows, in words or in a file."""
    texts = ("3,5", "3,,3", ",", "", " 3 ", "3;3", "-3", "4", "99999999999999", "3,3,3,1", "٣", "0")
    texts += ("mnist/unet/zeros", "mnist", "3.0", "1e1", "w.json", "missing.json", "real", "3,5\n3")
    texts += (".json", "w.json", "w.json", "w.json", "w.json", "w.json", "w.json", "w.json")
    contents = ({"network": "x", "windows": [1, 3]}, [1, 3], {"windows": 3}, {"windows": "33"})
    content = json.dumps(altered(rng, pick(rng, contents[:1] * 4 + contents))).encode()
    if rng.random() < 0.3:
        content = damaged(rng, content)
    if rng.random() < 0.1:
        content = pick(
            rng, (b"", b"\xef\xbb\xbf{}", b"[" * 100_000, b"NaN", b"\xff", b'"' + b"9" * 9)
        )
    (folder / "w.json").write_bytes(content)
    words = list(pick(rng, (SAMPLE, (*COMPARE, "--machine", "ls", "--window", "3"))))
    words[words.index("--window") + 1] = pick(rng, texts)
    return words


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


def torch_file(rng: Rng, folder: Path, _: Stock) -> Words:
    """A file of torch.save."""
    shapes = {"up_projection.weight": (8, 1, 3, 3), "up_projection.bias": (8,)}
    for i in range(2):
        shapes |= {f"embs.{i}.{j}.bias": (8,) for j in range(2)}
        shapes |= {f"embs.{i}.0.weight": (8, 8), f"embs.{i}.1.weight": (8,)}
    shapes |= {"convs.0.0.weight": (8, 8, 3, 3), "convs.0.0.bias": (8,)}
    shapes |= {"down_projection.weight": (1, 8, 1, 1), "down_projection.bias": (1,)}
    state, records = {}, {}
    for number, (name, shape) in enumerate(shapes.items()):
        size = int(np.prod(shape))
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        kind = Name("torch", "FloatStorage")
        storage = Storage(("storage", kind, str(number), "cpu", size))
        arguments = (
            storage,
            0,
            shape,
            strides,
            False,
            Call(Name("collections", "OrderedDict"), ()),
        )
        state[name] = Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)
        records[f"data/{number}"] = rng.standard_normal(size).astype("<f4").tobytes()
    wrong = (
        *WRONG,
        Name("os", "system"),
        Call(Name("builtins", "eval"), ("1",)),
        10**12,
        b"".hex(),
    )
    wrong += (Name("torch", "HalfStorage"), Name("torch", "LongStorage"), Storage(("storage",)))
    tree = pick(rng, (state, {"model": state}, {f"module.{k}": v for k, v in state.items()}))
    mode = rng.integers(6)
    if mode <= 2:
        tree = altered(rng, tree, wrong)
    program = b"\x80\x02" + pickled(tree) + b"."
    if mode == 3:
        program = damaged(rng, program)
    records |= {"data.pkl": program, "version": b"3\n", "byteorder": b"little"}
    if mode == 4:
        name = pick(rng, records)
        records[pick(rng, (name, name, "data/99", "code/x.py", "../../x"))] = damaged(
            rng, records.pop(name)
        )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", pick(rng, (zipfile.ZIP_STORED,) * 9 + (8,))) as archive:
        for name, record in records.items():
            archive.writestr(f"saved/{name}", record)
    content = file.getvalue()
    if mode == 5:
        content = damaged(rng, content)
    if rng.random() < 0.05:
        content = pick(rng, (b"", program, b"PK\5\6" + bytes(18)))
    (folder / "net.pt").write_bytes(content)
    config: Any = json.dumps(altered(rng, _TORCH) if rng.random() < 0.3 else _TORCH)
    return [*IMPORT, *pick(rng, (("--config", config),) * 5 + ((),))]


_TEXTS = ("", "x", "nan", "-1", "0", "1", "2", "1.5", "1e3", "None", "True", "٣", "1_0", " 2", "é☃")
_HUGE = ("99999999999", "-99999999999999999999", "2147483648", "9223372036854775808", "1e300")
_PATHS = (
    "real",
    "notes.txt",
    "link",
    "real/new",
    "new/deep/run",
    ".",
    "..",
    "",
    "run\n2",
    "-",
    "é☃",
)
_PATHS += (
    "run.partial",
    "a" * 300,
    "notes.txt/x",
    "data.npz",
    "missing",
    "net.safetensors",
    "./run/",
)
_NAMES = (
    "is",
    "IS",
    "els",
    "late",
    "resnet",
    "cifar10",
    "mnist/unet/zeros",
    "test",
    "heun",
    "zeros",
)
# Options whose numbers may be of any size: they are refused, or cost nothing.
_SAFE = ("limit", "label", "split", "seed", "window", "candidates", "tolerance", "learning-rate")
_SAFE += ("ema-decay", "clip-norm", "warmup-steps", "devices", "learning-rate-decay", "dataset")
_OTHERS = ("split", "limit", "label", "seed", "tolerance", "solver", "wrap-patches", "data-dir")
_OTHERS += ("protocol", "monotone", "conditional", "padding", "weights", "precision", "ema-decay")
_OTHERS += ("clip-norm", "learning-rate", "devices", "channels", "skip-unreadable", "window")


def line(rng: Rng, folder: Path, stock: Stock) -> Words:
    """Words of the command line."""
    commands = (SAMPLE, SAMPLE, COMPARE, CALIBRATE, TRAIN, BENCH, IMPORT, ("zoo",), ("datasets",))
    words = list(pick(rng, commands))
    (folder / "net.pt").write_bytes(b"PK")
    for _ in range(rng.integers(1, 4)):
        options = [i for i, word in enumerate(words) if word.startswith("--")]
        place = int(pick(rng, options)) if options else len(words)
        match rng.integers(9):
            case 0 | 1 | 2 if place + 1 < len(words):
                words[place + 1] = _value(rng, words[place][2:])
            case 3 | 4:
                option = pick(rng, _OTHERS)
                words += [f"--{option}", _value(rng, option)]
            case 5 if place + 1 < len(words):
                del words[place + 1]
            case 6 if options:
                words += words[place : place + 2]
            case 7:
                odd = ("--", "--help", "-x", "--no-such", "--overwrite", "--no-overwrite", "—out")
                words.insert(
                    rng.integers(len(words) + 1), pick(rng, (*odd, "stray", "--limi", "-"))
                )
            case 8 if place + 1 < len(words):
                words[place : place + 2] = [f"{words[place]}={words[place + 1]}"]
    return words


def _value(rng: Rng, option: str) -> str:
    """A value that an option may be given."""
    if option in ("out", "dataset", "network", "data-dir", "weights"):
        return pick(rng, (*_PATHS, *_NAMES))
    return pick(rng, (*_TEXTS, *_NAMES, *(_HUGE if option in _SAFE else ())))


KINDS: tuple[Callable[[Rng, Path, Stock], Words], ...] = (
    npz, images, network, index, partial, windows, torch_file, line,
)  # fmt: skip


def case(seed: int, folder: Path, stock: Stock) -> Case:
    """Makes the case of a seed in an empty folder."""
    kind = KINDS[seed % len(KINDS)]
    stock.basics(folder)
    return Case(kind.__name__, kind(np.random.default_rng(seed), folder, stock))
