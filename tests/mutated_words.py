"""Absurd words of the command line, and folders that are taken, each made from a number."""

from pathlib import Path

from damage import Rng, pick
from mutation_stock import (
    BENCH,
    CALIBRATE,
    COMPARE,
    IMPORT,
    MOSAIC,
    SAMPLE,
    STUDY,
    TRAIN,
    Stock,
    Words,
)

_TEXTS = ("", "x", "nan", "-1", "0", "1", "2", "1.5", "1e3", "None", "True", "٣", "0_3", " 2", "é☃")
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
_NAMES += ("exponential", "cosine,offset=0.008", "linear,num_steps=2,beta_first=1e-9")
# Options whose numbers may be of any size: they are refused, or cost nothing.
_SAFE = ("limit", "label", "split", "seed", "window", "candidates", "tolerance", "learning-rate")
_SAFE += ("ema-decay", "clip-norm", "warmup-steps", "devices", "learning-rate-decay", "dataset")
_SAFE += ("schedule", "top")
_COMMON = ("limit", "seed", "split", "data-dir", "skip-unreadable", "num-samples", "num-steps")
_MACHINE = ("label", "tolerance", "window", "machine")
_TRAINING = ("precision", "ema-decay", "clip-norm", "seed")
_OTHERS = {
    "sample": (*_COMMON, *_MACHINE, "solver", "wrap-patches", "schedule"),
    "mosaic": (*_COMMON, "label", "window", "machine", "top", "network", "protocol", "schedule"),
    "study": (*_COMMON, "machine-window", "window", "tolerance", "steps", "num-trousers"),
    "compare": (*_COMMON, *_MACHINE, "protocol", "network-steps"),
    "calibrate": (*_COMMON, "label", "monotone", "candidates"),
    "train": ("padding", "conditional", "weights", "schedule", *_TRAINING),
    "bench": ("devices", "channels", "window", "batch-size", "machine"),
    "import-torch": ("config", "image-size", "overwrite"),
    "zoo": ("help",),
    "datasets": ("data-dir",),
}


def folders(rng: Rng, folder: Path, _: Stock) -> Words:
    """Folders to write to that are taken, odd, or not ours."""
    words = list(pick(rng, (SAMPLE, SAMPLE, MOSAIC, STUDY, COMPARE, CALIBRATE, BENCH, TRAIN)))
    if rng.random() < 0.4:
        words[words.index("--out") + 1] = pick(rng, _PATHS)
    for name in ("run", "run.partial"):
        path = folder / name
        match rng.integers(8):
            case 0:
                path.write_text("mine")
            case 1:
                path.symlink_to(pick(rng, ("real", "missing", "notes.txt", name)))
            case 2 | 3:
                path.mkdir()
                (path / pick(rng, ("keep.txt", "samples.npz", ".hidden"))).write_text("mine")
                others = ("{}", '{"command": "sample"}', "[]", "mine", "")
                (path / "config.json").write_text(pick(rng, others))
            case 4:
                path.mkdir()
    return [*words, *pick(rng, ((), ("--overwrite",)))]


def line(rng: Rng, folder: Path, stock: Stock) -> Words:
    """Words of the command line."""
    often = (SAMPLE, MOSAIC, STUDY, COMPARE, CALIBRATE, IMPORT) * 2
    words = list(pick(rng, (*often, TRAIN, BENCH, ("zoo",), ("datasets",))))
    (folder / "net.pt").write_bytes(b"PK")
    for _ in range(rng.integers(1, 4)):
        options = [i for i, word in enumerate(words) if word.startswith("--")]
        place = int(pick(rng, options)) if options else len(words)
        match rng.integers(10):
            case 0 | 1 | 2 if place + 1 < len(words):
                words[place + 1] = _value(rng, words[place][2:])
            case 3 | 4:
                option = pick(rng, _OTHERS.get(words[0], ("out",)))
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
            case 8 if "--out" in words[:-1]:
                words[words.index("--out") + 1] = pick(rng, _PATHS)
                words += pick(rng, ((), ("--overwrite",)))
            case 9 if place + 1 < len(words):
                words[place : place + 2] = [f"{words[place]}={words[place + 1]}"]
    return words


def _value(rng: Rng, option: str) -> str:
    """A value that an option may be given."""
    if option in ("out", "dataset", "network", "data-dir", "weights"):
        return pick(rng, (*_PATHS, *_NAMES))
    return pick(rng, (*_TEXTS, *_NAMES, *(_HUGE if option in _SAFE else ())))
