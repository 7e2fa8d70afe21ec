"""Damaged and absurd inputs of the command line, each made from a number.

Everything is small, and no number stands for a size that would only take for ever. How each input
should end is said in `mutations`.
"""

import contextlib
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from damage import (
    WRONG,
    Call,
    Name,
    Rng,
    Storage,
    altered,
    altered_array,
    changed_arrays,
    damaged,
    lying_arrays,
    pick,
    pickled,
)
from mutated_words import folders, line
from mutation_stock import (
    BENCH,
    CALIBRATE,
    COMPARE,
    IMPORT,
    MOSAIC,
    SAMPLE,
    TRAIN,
    Stock,
    Words,
    data_file,
)
from PIL import Image

_TORCH = {"kind": "resnet", "channels": 1, "emb_dim": 8, "mode": "zeros", "num_layers": 1}
_BESIDE = ("--network", "net.safetensors")


class Case(NamedTuple):
    """A command in a folder of files.

    Attributes:
      kind: what was damaged.
      words: of the command line.
    """

    kind: str
    words: Words


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
            name = pick(rng, sorted(tensors))  # which has no order of its own
            tensors[name] = altered_array(rng, tensors[name])
            with contextlib.suppress(Exception):  # what the format does not know
                content = safetensors.numpy.save(tensors, header["__metadata__"])
    (folder / "net.safetensors").write_bytes(content)
    beside = {"dataset": "data.npz", "split": "train", "num_images": 6}
    (folder / "config.json").write_text(json.dumps(altered(rng, beside)))
    words = list(pick(rng, (COMPARE, COMPARE, [*MOSAIC, *_BESIDE], CALIBRATE)))
    if words[0] != "mosaic" and rng.random() < 0.2:  # of what it was trained on
        del words[words.index("--dataset") : words.index("--dataset") + 2]
    return words


def index(rng: Rng, folder: Path, stock: Stock) -> Words:
    """A cached index of patches."""
    words = [*SAMPLE, "--tolerance", "0.1", "--machine", "els"]
    cached = stock.indices(words)
    for path, content in cached.items():
        path.write_bytes(content)
    file = pick(rng, sorted(cached))
    content = cached[file]
    try:
        content = changed_arrays(rng, content)
    except Exception:  # of a format of its own
        content = damaged(rng, content)
    if rng.random() < 0.5:
        content = damaged(rng, cached[file])
    if rng.random() < 0.1:
        content = b""
    file.write_bytes(content)
    return words


def partial(rng: Rng, folder: Path, stock: Stock) -> Words:
    """A run that was killed."""
    words, writes = pick(
        rng,
        (
            *((SAMPLE, n) for n in (2, 3)),
            *((MOSAIC, n) for n in (2, 3)),
            *((COMPARE, n) for n in (2, 3, 4, 5)),
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
    words = list(pick(rng, (SAMPLE, [*COMPARE, "--machine", "ls", "--window", "3"])))
    words[words.index("--window") + 1] = pick(rng, texts)
    return words


def torch_file(rng: Rng, folder: Path, _: Stock) -> Words:
    """A file of torch.save."""
    state, records = _state_dict(rng)
    wrong = (
        *WRONG,
        Name("os", "system"),
        Call(Name("builtins", "eval"), ("1",)),
        10**12,
        b"".hex(),
    )
    wrong += (Name("torch", "HalfStorage"), Name("torch", "LongStorage"), Storage(("storage",)))
    tree = pick(rng, (state, {"model": state}, {f"module.{k}": v for k, v in state.items()}))
    mode = rng.integers(7)  # 6: as it should be
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


def _state_dict(rng: Rng) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Tensors of a small network by name, and the records of their numbers."""
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
        hooks = Call(Name("collections", "OrderedDict"), ())
        arguments = (storage, 0, shape, strides, False, hooks)
        state[name] = Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)
        records[f"data/{number}"] = rng.standard_normal(size).astype("<f4").tobytes()
    return state, records


KINDS: tuple[Callable[[Rng, Path, Stock], Words], ...] = (
    npz, images, network, index, partial, windows, torch_file, folders, line,
)  # fmt: skip
# One after another, the quick ones more often.
_TURNS = (*KINDS, *(kind for kind in KINDS if kind is not index))


def kind_of(seed: int) -> str:
    """The kind of the case of a seed."""
    return _TURNS[seed % len(_TURNS)].__name__


def case(seed: int, folder: Path, stock: Stock) -> Case:
    """Makes the case of a seed in an empty folder."""
    make = _TURNS[seed % len(_TURNS)]
    stock.basics(folder)
    return Case(kind_of(seed), make(np.random.default_rng(seed), folder, stock))
