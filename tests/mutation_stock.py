"""Commands in their smallest form, and the files that they start from, whole or cut short."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from damage import arrays_bytes
from flax import nnx

import elsjax

Words = list[str]
Run = Callable[[Path, Words], int]

_DATA = "--dataset data.npz --image-size 4"
_ONE = "--num-samples 1 --batch-size 1 --out run"
_NETWORK = f"--network net.safetensors {_DATA} --num-steps 2"
SAMPLE = f"sample {_DATA} --machine ls --window 3 --num-steps 2 {_ONE}".split()
MOSAIC = f"mosaic {_DATA} --machine ls --window 3 --num-steps 2 {_ONE}".split()
STUDY = (
    f"study mosaics --network net.safetensors {_DATA} --machine-window 3 --steps 2 --tolerance 0.2 "
    f"{_ONE}"
).split()
COMPARE = f"compare {_NETWORK} --machine is --network-steps 2 {_ONE}".split()
CALIBRATE = f"calibrate {_NETWORK} --candidates 1 3 --num-samples 1 --out run".split()
TRAIN = (
    f"train {_DATA} --network resnet-small --batch-size 2 --num-steps 2 --warmup-steps 0 "
    "--checkpoint-every 1 --out run"
).split()
BENCH = (
    "bench --machine is ls --window 3 --num-images 5 --image-size 4 --repetitions 1 --out run"
).split()
IMPORT = "import-torch net.pt --image-size 4 --out run.safetensors".split()


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
        left -= not str(arguments[1]).endswith(".elsjax-run")
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
        self._indices: dict[Path, bytes] = {}
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

    def indices(self, words: Words) -> dict[Path, bytes]:
        """The cached indices of a command."""
        if not self._indices:
            folder = self.folder / "indexed"
            self.basics(folder)
            assert self._run(folder, words) == 0
            self._indices = {
                path: path.read_bytes()
                for folder in self.cache.rglob("indices")
                for path in folder.iterdir()
            }
        return self._indices
