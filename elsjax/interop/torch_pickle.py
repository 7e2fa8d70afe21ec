"""Reads what `torch.save` wrote, without PyTorch and without running what the file says.

`torch.save` writes a zip archive: `data.pkl`, a pickle of the saved object, and `data/0`,
`data/1`, ..., the raw numbers of its tensors. A pickle is a program that may name any function and
have it called. The machine here has no functions: to call is to make an inert `TorchObject`, a
tensor is a NumPy array, and a name that is not listed below is refused, though it would be only a
word. Nothing is imported, nothing is called.
"""

import dataclasses
import io
import math
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES = {
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "BoolStorage": np.dtype(np.bool_),
    "ByteStorage": np.dtype(np.uint8),
    "CharStorage": np.dtype(np.int8),
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "IntStorage": np.dtype(np.int32),
    "LongStorage": np.dtype(np.int64),
    "ShortStorage": np.dtype(np.int16),
}
# Names of the published code, which stands in other folders in each copy of it.
_PUBLISHED = {"DDIM", "EmbeddingModule", "MinimalResNet", "MinimalUNet", "UBlock"}
_PUBLISHED |= {"cosine_noise_schedule", "exponential_schedule", "linear_noise_schedule"}
_PACKAGES = ("torch.nn.modules.", "torch.nn.parallel.", "torch.optim.")
_PARAMETERS = {"_rebuild_parameter", "_rebuild_parameter_with_state"}
# What else stands in checkpoints; only OrderedDict and the two of torch._utils are looked at.
_NAMES = {
    "__builtin__": {"bytearray", "dict", "set"},
    "builtins": {"bytearray", "dict", "set"},
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
    "torch": {"Size", "bfloat16", "device", "float16", "float32", "float64", "int64", *_DTYPES},
    "torch._utils": {"_rebuild_tensor_v2", *_PARAMETERS},
}
_RECORDS = {"data.pkl", "version", "byteorder", ".format_version", ".storage_alignment"}
_RECORDS |= {".data/serialization_id"}
_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class Refused(Exception):
    """The file holds what it should not; the message says what, in one line."""


@dataclasses.dataclass(eq=False)
class TorchObject:
    """What stands for any object that is no plain data: its class's name and its attributes."""

    name: str
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_torch(content: bytes) -> Any:
    """The object in a file of `torch.save`.

    Args:
      content: bytes of the file, as PyTorch 1.6 or newer writes it.

    Returns:
      Plain data: numbers, strings, lists, tuples, dicts (their entries under strings only), arrays
      for tensors (read-only), `TorchObject` for all else. It may hold itself.

    Raises:
      Refused: if the file is truncated or altered, or names what is not listed here.
    """
    try:
        records = _records(content)
        return _Machine(records).run(records["data.pkl"])
    except Refused:
        raise
    except Exception as error:  # a crafted file can fail in as many ways as Python can
        raise Refused(
            "truncated, altered or not written by torch.save "
            f"({type(error).__name__}: {_shown(str(error))})"
        ) from error


def _records(content: bytes) -> dict[str, bytes]:
    """The records of the archive by name, without the folder they stand in."""
    if content.startswith(_OLD_FORMAT):
        raise Refused("in PyTorch's format from before 1.6: load and save it with a newer PyTorch")
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise Refused("not a file of torch.save: no complete zip archive (truncated?)")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name, shown = info.filename.partition("/")[2], repr(_shown(info.filename))
            if name not in _RECORDS and not name.startswith("data/"):
                raise Refused(f"it holds {shown}, which is no part of a network")
            if name in infos or info.compress_type != zipfile.ZIP_STORED:
                raise Refused(f"it holds {shown} twice, or compressed")
            infos[name] = info
        if "data.pkl" not in infos:
            raise Refused("it holds no data.pkl")
        if sum(info.file_size for info in infos.values()) > len(content):
            raise Refused("its records overlap")
        records = {name: archive.read(info) for name, info in infos.items()}
    if records.get("byteorder", b"little") != b"little":
        raise Refused("its numbers are not little-endian")
    return records


@dataclasses.dataclass(frozen=True, eq=False)
class _Name:
    """A class or function that the pickle names; never looked up."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
    """The numbers behind tensors, a flat array."""

    numbers: np.ndarray


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"}
_LITERALS |= {"BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "UNICODE"}
_LITERALS |= {"BINSTRING", "SHORT_BINSTRING", "STRING", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES"}


class _Machine:
    """A pickle machine that makes plain data and stand-ins.

    Values are never compared, hashed or printed unless they are known to be strings or numbers:
    a few bytes can describe a tuple that takes for ever to walk through.
    """

    def __init__(self, records: Mapping[str, bytes]) -> None:
        self._records = records
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what lies under each mark
        self._memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """The object that a pickle describes."""
        stream = io.BytesIO(program)
        for opcode, argument, _ in pickletools.genops(stream):
            self._step(opcode.name, argument)
        if stream.read():
            raise Refused("data.pkl goes on after its end")
        return self._stack.pop()

    def _step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case opcode if opcode in _LITERALS:
                self._stack.append(argument)
            case opcode if opcode in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode])
            case "MARK":
                self._below.append(self._stack)
                self._stack = []
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case "GLOBAL" | "INST":
                self._stack.append(_known(*argument.split(" ", 1)))
            case _:
                if not (self._collect(opcode) or self._construct(opcode)):
                    raise Refused(f"its pickle holds {opcode}, which torch.save does not write")

    def _collect(self, opcode: str) -> bool:
        """Makes or fills a list, tuple or dict; False if the opcode does something else."""
        pop = self._stack.pop
        match opcode:
            case "EMPTY_LIST" | "EMPTY_SET":  # the elements of sets are not looked at
                self._stack.append([])
            case "EMPTY_DICT":
                self._stack.append({})
            case "LIST" | "FROZENSET":
                items = self._above_mark()
                self._stack.append(items)
            case "TUPLE":
                items = self._above_mark()
                self._stack.append(tuple(items))
            case "DICT":
                items = self._above_mark()
                self._stack.append(_entries(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(tuple([pop() for _ in range(int(opcode[-1]))][::-1]))
            case "APPEND":
                self._extend([pop()])
            case "APPENDS":
                self._extend(self._above_mark())
            case "ADDITEMS":
                self._above_mark()
            case "SETITEM":
                self._update([pop() for _ in range(2)][::-1])
            case "SETITEMS":
                self._update(self._above_mark())
            case _:
                return False
        return True

    def _construct(self, opcode: str) -> bool:
        """Makes or fills a stand-in of an object; False if the opcode does something else."""
        push, pop = self._stack.append, self._stack.pop
        match opcode:
            case "STACK_GLOBAL":
                push(_known(*[pop() for _ in range(2)][::-1]))
            case "NEWOBJ" | "NEWOBJ_EX" | "REDUCE":
                arguments = [pop() for _ in range(2 if opcode == "NEWOBJ_EX" else 1)][-1]
                push(_call(pop(), arguments))
            case "BUILD":
                state, target = pop(), self._stack[-1]
                if isinstance(target, TorchObject) and isinstance(state, dict):
                    target.attributes = state
            case "BINPERSID":
                push(self._storage(pop()))
            case _:
                return False
        return True

    def _above_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], dict):
            self._stack[-1].update(_entries(items))

    def _storage(self, pid: Any) -> _Storage:
        """The numbers of a storage."""
        tag, name, key, _, count = pid
        if not isinstance(tag, str) or tag != "storage":
            raise Refused("it refers to something else than the storage of a tensor")
        if not isinstance(name, _Name) or name.module != "torch" or name.name not in _DTYPES:
            raise Refused("the storage of a tensor has no type")
        if type(key) is not str or type(count) is not int:
            raise Refused("the storage of a tensor has no name or no size")
        record, dtype = self._records.get(f"data/{key}"), _DTYPES[name.name]
        if record is None:
            raise Refused(f"storage {_shown(key)!r} is missing")
        if len(record) != count * dtype.itemsize:
            raise Refused(
                f"storage {_shown(key)!r} has {len(record)} bytes, "
                f"expected {count} × {dtype.itemsize}"
            )
        return _Storage(np.frombuffer(record, dtype))


def _known(module: Any, name: Any) -> _Name:
    """The stand-in for a name; refused if it is not listed."""
    if type(module) is not str or type(name) is not str:
        raise Refused("it names something that is not a word")
    published = name in _PUBLISHED
    package = module.startswith(_PACKAGES) and name.isidentifier()
    if not (published or package or name in _NAMES.get(module, ())):
        raise Refused(
            f"it names {_shown(f'{module}.{name}')}, which is no part of a published network; "
            "model.state_dict() saved alone can be read, with a config beside it"
        )
    return _Name(module, name)


def _call(called: Any, arguments: Any) -> Any:
    """What a call stands for."""
    if not isinstance(called, _Name):
        raise Refused("it calls what has no name")
    match called:
        case _Name("torch._utils", "_rebuild_tensor_v2"):
            return _tensor(*arguments)
        case _Name("torch._utils", name) if name in _PARAMETERS:
            return arguments[0]
        case _Name("collections", "OrderedDict"):
            return {}
    return TorchObject(called.name)


def _entries(items: list[Any]) -> dict[str, Any]:
    """Keys and values in turn as a dict, less what does not stand under a string."""
    pairs = zip(items[::2], items[1::2], strict=True)
    return {key: value for key, value in pairs if type(key) is str}


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """A tensor: a view into a storage; refused if it reaches outside."""
    if not isinstance(storage, _Storage):
        raise Refused("a tensor is not made from a storage")
    numbers = (offset, *shape, *strides)
    within = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
    if not within or len(shape) != len(strides) or len(shape) > 32:
        raise Refused("a tensor has an offset, a shape or strides out of range")
    flat, size = storage.numbers, math.prod(shape)
    if size == 0:
        return flat[:0].reshape(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if size > flat.size or last >= flat.size:
        raise Refused(f"a tensor of shape {list(shape)} does not fit its storage")
    steps = tuple(step * flat.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)


def _shown(text: str) -> str:
    """A string of a file as part of a line."""
    text = text if len(text) <= 120 else f"{text[:120]}..."
    return text if text.isprintable() else ascii(text)
