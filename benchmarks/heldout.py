"""Held-out error over t: a network, the machines and the Wiener filter of its training images.

    python benchmarks/heldout.py --network mnist/unet/zeros --out heldout

Errors of E[x_0 | x_t] for images that none of them has seen, all under the same noise, in units of
the Wiener filter's error for the same images. Local machines are measured through every window
within the network's receptive field, and the best window is told for each time. Machines are dear,
so they see the first of the images only; the network's error for those stands beside theirs.

A run goes on where it stopped: what is in the folder is not computed again.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro
from jaxtyping import Float
from matplotlib.figure import Figure
from tqdm import tqdm

import elsjax
from elsjax.experiments.heldout import TIMES, heldout_error, heldout_images
from elsjax.experiments.runs import Run
from elsjax.nn.zoo import zoo
from elsjax.parallel import use_all_cores
from elsjax.process.denoisers import Denoiser


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    network: str = "mnist/unet/zeros"
    """One that `elsjax zoo` lists."""
    num_images: int = 500
    """Held-out images, the same number of each class as far as they go."""
    num_for_machines: int = 12
    """How many of them the machines see."""
    windows: tuple[int, ...] = (3, 5, 7, 9, 11, 13, 17, 21, 25)
    seed: int = 0
    data_dir: str | None = None
    out: Path = Path("heldout")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A denoiser to measure, made when its turn comes, and how many images it sees."""

    name: str
    make: Callable[[], Denoiser]
    conditional: bool
    num_images: int


def columns(options: Options, training: elsjax.Dataset, network: elsjax.nn.Network) -> list[Column]:
    conditional = network.num_classes is not None
    local = "els" if network.padding == "circular" else "bbels"
    most = {"ls": network.receptive_field, local: network.receptive_field}
    if local == "els":
        most[local] = min(most[local], *network.image_shape[:2])
    machines = {"IS": ("is", None)} | {
        f"{kind.upper().replace('BB', 'bb')} P={side}": (kind, side)
        for kind in ("ls", local)
        for side in options.windows
        if side <= most[kind]
    }

    def make(kind: str, window: int | None) -> Denoiser:
        return elsjax.ScoreMachine(
            kind,
            training.pixels,
            training.labels if conditional else None,
            schedule=network.schedule,
            window=window,
            mesh=elsjax.make_mesh(),
        )

    def wiener() -> Denoiser:
        return elsjax.WienerDenoiser(training.pixels, schedule=network.schedule)

    return [
        Column("Wiener", wiener, False, options.num_images),
        Column("network", lambda: network, conditional, options.num_images),
        *[
            Column(name, functools.partial(make, *machine), conditional, options.num_for_machines)
            for name, machine in machines.items()
        ],
    ]


def table(found: dict[str, Float[np.ndarray, "t n"]], few: int) -> dict[str, list[str]]:
    """Rows of text by name, an entry for each time, in units of the Wiener filter's error."""
    rows = {"network": _relative(found["network"], found["Wiener"])}
    few_network = _relative(found["network"][:, :few], found["Wiener"][:, :few])
    rows[f"network, the first {few}"] = few_network
    rows["IS"] = _relative(found["IS"], found["Wiener"][:, :few])
    for kind in dict.fromkeys(name.split()[0] for name in found if "P=" in name):
        sides = {name: found[name].mean(1) for name in found if name.startswith(f"{kind} P=")}
        best = [min(sides, key=lambda name, i=i: sides[name][i]) for i in range(len(TIMES))]
        errors = np.stack([found[name][i] for i, name in enumerate(best)])
        values = _relative(errors, found["Wiener"][:, :few])
        rows[f"{kind}, best P"] = [
            f"{value} ({name.split('=')[1]})" for value, name in zip(values, best, strict=True)
        ]
    return rows


def _relative(errors: Float[np.ndarray, "t n"], wiener: Float[np.ndarray, "t n"]) -> list[str]:
    return [f"{value:.2f}" for value in errors.mean(1) / wiener.mean(1)]


def figure(found: dict[str, Float[np.ndarray, "t n"]], few: int) -> Figure:
    drawn = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    ax = drawn.subplots()
    for name, errors in found.items():
        wiener = found["Wiener"][:, : errors.shape[1]]
        style = {"Wiener": ":k", "network": "o-k"}.get(name, "--" if name[0] == "L" else "-")
        ax.plot(
            TIMES, errors.mean(1) / wiener.mean(1), style, label=name, linewidth=1, markersize=3
        )
    ax.set(xlabel="t", ylabel="held-out error of x0 / that of the Wiener filter", yscale="log")
    ax.legend(
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        title=f"machines: {few} of the images",
    )
    return drawn


def measure(options: Options) -> dict[str, list[str]]:
    entry, network = zoo()[options.network], elsjax.load_pretrained(options.network)
    side = network.image_shape[0]
    training = elsjax.load_dataset(
        entry.dataset, entry.split, entry.num_images, side, options.data_dir
    )
    images = heldout_images(
        training, None, options.num_images, image_size=side, data_dir=options.data_dir
    )
    if images is None:
        raise SystemExit(f"no held-out images for {entry.dataset}: see `elsjax datasets`")
    key = jax.random.key(options.seed)
    with Run(options.out, overwrite=options.overwrite) as run:
        config = dataclasses.asdict(options)
        del config["out"], config["overwrite"]
        run.start({"benchmark": "heldout", **config})
        todo = columns(options, training, network)
        like = {c.name: (np.float64, (len(TIMES), c.num_images)) for c in todo}
        found = run.load_arrays("heldout.npz", like) or {
            name: np.full(shape, np.nan) for name, (_, shape) in like.items()
        }
        total = sum(int(np.isnan(errors[:, 0]).sum()) for errors in found.values())
        with tqdm(total=total, unit="time") as bar:
            for column in todo:
                errors = found[column.name]
                denoiser = column.make() if np.isnan(errors).any() else None
                seen = slice(column.num_images)
                for index in np.flatnonzero(np.isnan(errors[:, 0])):
                    labels = images.labels[seen] if column.conditional else None
                    bar.set_postfix_str(f"{column.name}, t={TIMES[index]:g}")
                    errors[index] = heldout_error(
                        denoiser, images.pixels[seen], TIMES[index : index + 1], key, labels
                    )[0]
                    run.save_arrays("heldout.npz", found)
                    bar.update()
        rows = table(found, options.num_for_machines)
        run.save_json("heldout.json", {"times": TIMES, "rows": rows})
        picture = figure(found, options.num_for_machines)
        run.write("heldout.png", lambda file: picture.savefig(file, format="png"))
        run.finish()
    return rows


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    use_all_cores()
    rows = measure(options)
    print(f"| {options.network} | " + " | ".join(f"{t:g}" for t in TIMES) + " |")
    print("| --- |" + " --- |" * len(TIMES))
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(values) + " |")


if __name__ == "__main__":
    main()
