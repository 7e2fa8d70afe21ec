"""Files of PyTorch that are refused: truncated, altered, or made to do harm."""

import os
import re
import struct
import zipfile

import numpy as np
import pytest
from torch_stand_ins import (
    CONFIGS,
    Storage,
    Tensor,
    archive,
    module,
    network_of,
    save,
    state_dict_of,
    torch,
)

from elsjax import cli
from elsjax.interop.state_dicts import load_torch_file

__all__ = ["torch"]  # a fixture


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_more_than_a_network(tmp_path, torch):
    network = network_of(torch, CONFIGS["resnet"], state_dict_of(CONFIGS["resnet"]))
    tensor = Tensor(np.ones(2, np.float32))

    def refused(saved, message):
        with pytest.raises(ValueError, match=f"a.pt: .*{message}"):
            load_torch_file(save(tmp_path / "a.pt", saved), {})

    refused({}, "holds no published network, .*; its tensors: nothing")
    refused({1: tensor}, "its tensors: nothing")
    refused([network], "its tensors: nothing")
    refused(tensor, "its tensors: ")
    refused({"a": tensor, "b": {"c": tensor}}, "its tensors: a, b.c")
    refused(module(torch.Linear, {"weight": tensor}), "its tensors: weight")
    refused(module(torch.Sequential, children={"0": 3}), "its tensors: nothing")
    refused({"a": {"b": tensor}, "a.b": tensor}, "holds a.b twice")
    refused({"a\nb": tensor}, "a name that cannot be printed")
    refused({"a" * 501: tensor}, "of over 500 letters")
    refused(Call(torch.cosine_noise_schedule, 1), "its tensors: nothing")
    network.hook = print
    refused(network, "names __builtin__.print, .*; model.state_dict\\(\\) saved alone can be read")
    bare = network_of(
        torch, CONFIGS["resnet"], {"up_projection.weight": np.ones((8, 1, 3, 3), "f4")}
    )
    refused(bare, "truncated, altered or no network \\(KeyError: 'down_projection.weight'\\)")


@pytest.mark.parametrize("length", [0, 10, 1000, -30, -1])
def test_truncated(tmp_path, torch, length):
    config = CONFIGS["resnet"]
    path = save(tmp_path / "a.pt", network_of(torch, config, state_dict_of(config)))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="a.pt.*truncated"):
        load_torch_file(path)


def test_altered_numbers(tmp_path, torch):
    state = {"a": Tensor(np.full(50, 1.5, np.float32))}
    path = save(tmp_path / "a.pt", state)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<f", 1.5), struct.pack("<f", 1.25), 1))
    with pytest.raises(ValueError, match="a.pt: truncated, altered or not .*CRC"):
        load_torch_file(path, {})


def test_every_altered_byte_is_an_error_or_does_no_harm(tmp_path, torch):
    config = CONFIGS["resnet"] | {"num_layers": 1}
    saved = network_of(torch, config, state_dict_of(config))
    path = save(tmp_path / "a.pt", saved)
    with zipfile.ZipFile(path) as file:
        records = {name.removeprefix("saved/"): file.read(name) for name in file.namelist()}
    rng = np.random.default_rng(0)
    for _ in range(300):
        pickled = bytearray(records["data.pkl"])
        pickled[rng.integers(len(pickled))] = rng.integers(256)
        archive(path, records | {"data.pkl": bytes(pickled)})
        try:
            load_torch_file(path)
        except ValueError:
            continue


def test_altered_archives(tmp_path, torch):
    state = {"a": Tensor(np.ones(4, np.float32))}

    def refused(message, saved=state, **changed):
        with pytest.raises(ValueError, match=f"a.pt: .*{message}"):
            load_torch_file(save(tmp_path / "a.pt", saved, **changed), {})

    refused("storage '0' has 12 bytes, expected 4 × 4", **{"data/0": b"\0" * 12})
    refused("'saved/code/run.py', which is no part", **{"code/run.py": b"print()"})
    refused("not little-endian", byteorder=b"big")
    refused("goes on after its end", data_pkl=b"}.}.")
    with pytest.raises(ValueError, match="holds no data.pkl"):
        load_torch_file(archive(tmp_path / "b.pt", {"version": b"3"}))
    with zipfile.ZipFile(save(tmp_path / "c.pt", state)) as file:
        program = file.read("saved/data.pkl")
    with pytest.raises(ValueError, match="storage '0' is missing"):
        load_torch_file(archive(tmp_path / "d.pt", {"data.pkl": program}), {})
    with pytest.raises(ValueError, match="data.pkl' twice, or compressed"):
        load_torch_file(archive(tmp_path / "e.pt", {"data.pkl": b"}."}, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (1 << 40,), (0,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
        (0, (1,) * 33, (1,) * 33),
    ],
)
def test_a_tensor_outside_its_storage(tmp_path, torch, offset, shape, strides):
    storage = Storage(np.ones(4, np.float32), torch.FloatStorage)
    tensor = Call(torch._rebuild_tensor_v2, storage, offset, shape, strides, False, {})
    with pytest.raises(ValueError, match="a.pt: a tensor .*(storage|offset)"):
        load_torch_file(save(tmp_path / "a.pt", {"a": tensor}), {})


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.pt"):
        load_torch_file(tmp_path / "gone.pt")


# Malicious pickles: each would write FILE, with some way to call what the pickle names

ATTACKS = {
    "posix.system": b"cposix\nsystem\n(S'touch FILE'\ntR.",
    "os.system": b"cos\nsystem\n(S'touch FILE'\ntR.",
    "nt.system": b"cnt\nsystem\n(S'touch FILE'\ntR.",
    "os.popen": b"(S'touch FILE'\nios\npopen\n.",
    "subprocess.Popen": b"(csubprocess\nPopen\nS'touch FILE'\no.",
    "builtins.exec": b'cbuiltins\nexec\n(S\'open("FILE", "w")\'\ntR.',
    "__builtin__.eval": b'c__builtin__\neval\n(S\'open("FILE", "w")\'\ntR.',
    "builtins.open": b"cbuiltins\nopen\n(S'FILE'\nS'w'\ntR.",
    "io.open": b"cio\nopen\n(S'FILE'\nS'w'\ntR.",
    "pathlib.Path": b"cpathlib\nPath\n(S'FILE'\ntR.",
    "functools.partial": b"cfunctools\npartial\n(cbuiltins\nopen\nS'FILE'\nS'w'\ntR(tR.",
    "builtins.getattr": b"cbuiltins\ngetattr\n(ccollections\nOrderedDict\nS'__init__'\ntR.",
    "builtins.__import__": b"cbuiltins\n__import__\n(S'os'\ntR.",
    "operator.methodcaller": b"coperator\nmethodcaller\n(S'system'\nS'touch FILE'\ntR.",
    "numpy.save": b"cnumpy\nsave\n(S'FILE'\nI1\ntR.",
    "torch.load": b"ctorch\nload\n(S'FILE'\ntR.",
    "torch.hub.load": b"ctorch.hub\nload\n(S'FILE'\ntR.",
    "models.os": b"cmodels\nos\n.",
    "models.UBlock.forward": b"\x80\x04\x8c\x06models\x8c\x0eUBlock.forward\x93.",
    "collections.OrderedDict.__class__": (
        b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.__class__\x93."
    ),
    "shutil.copy": b"\x80\x04\x8c\x06shutil\x8c\x04copy\x93\x8c\x09/bin/echo\x8c\x04FILE\x86R.",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_malicious_name_is_refused_and_not_called(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "a.pt", {"data.pkl": ATTACKS[name]})
    with pytest.raises(ValueError, match=f"a.pt: it names {re.escape(name)}, which is no part"):
        load_torch_file(path)
    assert not (tmp_path / "FILE").exists()


LINEAR = b"ctorch.nn.modules.linear\nLinear\n"
FUNCTION = b"ctorch._utils\n_rebuild_tensor_v2\n"
MISUSES = {
    "a class is called with arguments": LINEAR + b"(S'touch FILE'\ntR.",
    "a class is altered": LINEAR + b"}S'__reduce__'\nI1\nsb.",
    "a class gets slots": LINEAR + b"(N}S'__setstate__'\nI1\nst\x94b.",
    "a function is altered": FUNCTION + b"}S'__code__'\nI1\nsb.",
    "a function gets slots": FUNCTION + b"(N}S'value'\nI1\nstb.",
    "a function is made": FUNCTION + b")\x81.",
    "a storage type is called": b"ctorch\nFloatStorage\n)R.",
    "a storage type is altered": b"ctorch\nFloatStorage\n}b.",
    "a dict is made of a string": b"ccollections\nOrderedDict\n(S'FILE'\ntR.",
    "a module's state is no dict": LINEAR + b")\x81]b.",
    "a module's state has slots": LINEAR + b")\x81(}}S'attributes'\nI1\nstb.",
    "a module without state": b"cmodels\nMinimalUNet\n)\x81.",
    "a module with arguments": LINEAR + b"(I1\nt\x81.",
    "a module inside itself": (
        LINEAR + b")\x81q\x00}(S'_parameters'\n}S'_buffers'\n}S'_modules'\n}S'0'\nh\x00suub."
    ),
    "a set is altered": b"c__builtin__\nset\n(]tR}S'a'\nI1\nsb.",
    "another persistent id": b"(S'file'\nS'FILE'\nS'0'\nS'cpu'\nI1\ntQ.",
    "a persistent id of text": b"PFILE\n.",
    "a tensor of a tensor": FUNCTION + b"(I1\nI0\n(t(ttR.",
    "a parameter of a list": b"ctorch._utils\n_rebuild_parameter\n(]I01\n}tR.",
    "a huge memory": b"}r\xff\xff\xff\x7f.",
    "an extension": b"\x82\x01.",
    "a huge string": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "nothing": b".",
    "no end": b"}",
    "not a pickle": b"import os",
}


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_of_what_is_known_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "a.pt", {"data.pkl": MISUSES[name]})
    with pytest.raises(ValueError, match="a.pt"):
        load_torch_file(path, {})
    assert not (tmp_path / "FILE").exists()


def test_what_one_file_does_is_not_seen_by_the_next(tmp_path, torch):
    for program in MISUSES.values():
        with pytest.raises(ValueError, match="a.pt"):
            load_torch_file(archive(tmp_path / "a.pt", {"data.pkl": program}), {})
    config = CONFIGS["resnet"]
    path = save(tmp_path / "b.pt", network_of(torch, config, state_dict_of(config)))
    assert config.items() <= load_torch_file(path)[0].items()


def test_import_torch_refuses_a_malicious_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, program = next(iter(ATTACKS.items()))
    path = archive(tmp_path / "a.pt", {"data.pkl": program})
    assert cli.main(["import-torch", str(path)]) == 2
    assert f"it names {name}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.pt"]
