"""Mosaics: which training pixel every pixel of a sample was copied from, step by step.

The posterior mean of a score machine is a sum of training pixels by weight. A mosaic keeps, for
each step of a reverse process and each pixel, the training pixels of the largest weights, and how
many there are in effect. To see what one training image does, each sample is painted again, from
the same noise, without the image that gave most.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from elsjax import checks
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.states import States
from elsjax.indexed import IndexedMachine
from elsjax.machines import MOST_TOP, ScoreMachine
from elsjax.posterior.answers import Top
from elsjax.process.denoisers import Denoiser
from elsjax.process.sampling import Solver, Step, time_grid
from elsjax.process.windows import WindowSchedule

_HALF_A_LEVEL = 1 / 255  # of 256 levels of grey in [-1, 1]
_KEPT = ("weight", "image", "row", "column", "effective_number", "entropy")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mosaic:
    """A reverse process of a score machine, with the sources of every pixel at every step.

    S steps lead from times[0] to times[S], usually 0; step s looks at states[s], at the time
    times[s]. The most likely source of a pixel is top.*[s, b, i, j, 0]. Arrays are NumPy's.

    Attributes:
      times: of the states, [S + 1], falling.
      windows: side P(t) of the window at each step, [S]; 0 for the whole image.
      states: x_t, [S + 1, B, H, W, C]: the noise first, the samples last.
      x0: estimates of the clean images at each step, [S, B, H, W, C].
      top: the likeliest training pixels at each step, weights and sources, [S, B, H, W, k].
      effective_number: of training patches, [S, B, H, W].
      entropy: of their weights, in nats, [S, B, H, W].
      label: class of each sample, [B]; None without.
      left_out: of each sample, the training image that gave most, [B]: that of the largest sum of
        squared weights in `top` over all pixels and steps, so that what many images have alike, a
        flat background, counts little; the smallest number of several. -1 where there is no other
        image to paint with.
      repainted: the samples from the same noise without that image, [B, H, W, C]; the samples
        themselves where there is no other.
    """

    times: Float[Array, " steps"]
    windows: Int[Array, " s"]
    states: Float[Array, "steps b h w c"]
    x0: Float[Array, "s b h w c"]
    top: Top
    effective_number: Float[Array, "s b h w"]
    entropy: Float[Array, "s b h w"]
    label: Int[Array, " b"] | None
    left_out: Int[Array, " b"]
    repainted: Float[Array, "b h w c"]

    @property
    def samples(self) -> Float[Array, "b h w c"]:
        """The images at the end, [B, H, W, C]."""
        return self.states[-1]

    @property
    def commitment(self) -> Int[np.ndarray, "b h w"]:
        """First step from which the likeliest source of a pixel stays to the end, [B, H, W]."""
        sources = np.stack([self.top.image, self.top.row, self.top.column])[..., 0]
        stays = (sources == sources[:, -1:]).all(0)
        return len(stays) - np.cumprod(stays[::-1], axis=0).sum(0)

    @property
    def offset(self) -> Int[np.ndarray, "s b h w k 2"]:
        """Where the sources lie, from the pixel: rows down and columns right, [S, B, H, W, k, 2].

        0 where there is no source.
        """
        row, column = np.asarray(self.top.row), np.asarray(self.top.column)
        down = row - np.arange(row.shape[2])[:, None, None]
        right = column - np.arange(row.shape[3])[:, None]
        return np.where(row[..., None] >= 0, np.stack([down, right], axis=-1), 0)

    @property
    def changed(self) -> Int[np.ndarray, " b"]:
        """How many pixels of each sample change without the image that is left out, [B].

        A pixel changes if any channel does by more than half a level of 8 bits, 1 / 255.
        """
        apart = np.abs(np.asarray(self.samples) - np.asarray(self.repainted))
        return (apart > _HALF_A_LEVEL).any(-1).sum((1, 2))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, as `elsjax mosaic` writes it and `elsjax.load_mosaic` reads it.

        Returns:
          The attributes, with those of `top` among them, and no label without; changed and
          commitment.
        """
        attributes = {**vars(self), **vars(self.top)}
        del attributes["top"]
        attributes |= {"changed": self.changed, "commitment": self.commitment}
        return {name: np.asarray(value) for name, value in attributes.items() if value is not None}


def mosaic(
    machine: ScoreMachine,
    noise: Float[ArrayLike, "b h w c"],
    *,
    num_steps: int | None = None,
    label: Int[ArrayLike, "..."] | None = None,
    solver: Solver = "ddim",
    key: Key[jax.Array, "..."] | None = None,
    times: ArrayLike | None = None,
    top: int = 5,
    batch_size: int | None = None,
    states: States | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Mosaic:
    """Samples a score machine and keeps where every pixel came from.

    The samples are those of `elsjax.sample`, to rounding. Each is then painted again without the
    training image that gave most, which takes as long again.

    Args:
      machine: the score machine; weights are exact, so none of `with_index`.
      noise: see `elsjax.sample`.
      num_steps: see `elsjax.sample`.
      label: see `elsjax.sample`.
      solver: see `elsjax.sample`; under "heun" a step's sources are those at its start.
      key: see `elsjax.sample`.
      times: see `elsjax.sample`.
      top: k, how many training pixels are kept for each pixel and step, from 1 to 1,024.
      batch_size: samples drawn at once; None for all.
      states: keeps the states on the way, so that an interrupted mosaic goes on; None to keep none.
      progress: called with the steps that are taken, counted for each sample, and their number, 2 B
        S; at first before any is.

    Returns:
      The mosaic, of NumPy arrays.

    Raises:
      ValueError: if an argument is not as described, or the machine refuses noise or label.
    """
    _check_exact(machine)
    top = checks.integer("top", top, 1, MOST_TOP)
    states = States() if states is None else states
    sampler = ResumableSampler(
        noise, label, solver=solver, key=key, batch_size=batch_size, states=states
    )
    grid = time_grid(machine.schedule, num_steps, times)
    sampler.check(machine, grid)
    half = len(sampler.noise) * (len(grid) - 1)

    def tell(taken: int) -> None:
        if progress is not None:
            progress(taken, 2 * half)

    kept = _recorded(sampler, machine, grid, top, states, tell)
    kept["top"] = Top(*(kept.pop(name) for name in ("weight", "image", "row", "column")))
    left_out = _givers(machine, sampler.label, kept["top"])
    repainted = _repainted(
        sampler, machine, grid, kept["states"][-1], left_out, lambda taken: tell(half + taken)
    )
    kept |= {"times": grid, "left_out": left_out, "repainted": repainted}
    kept["windows"] = np.array([_side(machine, t) for t in grid[:-1].tolist()])
    return Mosaic(label=sampler.label, **kept)  # type: ignore[arg-type]


class _Recorder(Denoiser):
    """A score machine that keeps what it says of the noisy images of a step.

    Args:
      machine: the machine.
      top: how many training pixels to keep.
    """

    def __init__(self, machine: ScoreMachine, top: int) -> None:
        self.schedule, self.image_shape = machine.schedule, machine.image_shape
        self._machine, self._top = machine, top
        self._found: dict[str, Any] | None = None

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        return self._machine.mesh

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        self._machine.check_label(label, batch)

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        if self._found is not None:  # the second evaluation of a step of Heun's method
            return self._machine.posterior_mean(x, t, label)
        found = self._machine.posterior(
            x, t, label, self._top, answers=("mean", "effective_number", "entropy")
        )
        self._found = {**vars(found), **vars(found.top)}
        return self._found["mean"]

    def record(self, step: Step) -> dict[str, np.ndarray]:
        """What there is to keep of a step, of which it is told."""
        assert self._found is not None
        kept = {"step": step.index, "x": step.x, "x0": step.x0}
        kept |= {name: self._found[name] for name in _KEPT}
        self._found = None
        return {name: np.asarray(value) for name, value in kept.items()}


def _recorded(
    sampler: ResumableSampler,
    machine: ScoreMachine,
    grid: Float[np.ndarray, " steps"],
    top: int,
    states: States,
    tell: Callable[[int], None],
) -> dict[str, Any]:
    """What is kept of all steps, with the names and shapes of `Mosaic` and of its `Top`."""
    num_steps = len(grid) - 1
    done: list[dict[str, np.ndarray]] = []
    for batch in sampler.batches:
        x, first = sampler.noise[batch], batch.start * num_steps
        names = [f"mosaic-{batch.start}-{index}" for index in range(num_steps)]
        records = _earlier(states, names, x, top)
        tell(first + len(x) * len(records))
        if len(records) < num_steps:
            x = records[-1]["x"] if records else x
            recorder = _Recorder(machine, top)
            for step in sampler.steps(recorder, grid, batch, x, len(records)):
                records.append(recorder.record(step))
                states.save(names[step.index], records[-1])
                tell(first + len(x) * len(records))
        of_batch = {name: np.stack([one[name] for one in records]) for name in ("x", "x0", *_KEPT)}
        taken = of_batch.pop("x")
        noise = np.asarray(sampler.noise[batch], taken.dtype)
        of_batch["states"] = np.concatenate([noise[None], taken])
        done.append(of_batch)
    return {name: np.concatenate([one[name] for one in done], axis=1) for name in done[0]}


def _earlier(
    states: States, names: list[str], x: Float[np.ndarray, "b h w c"], top: int
) -> list[dict[str, np.ndarray]]:
    """What an earlier start kept of the first steps of a batch, as far as there is all of it."""
    image = np.zeros(x.shape, jnp.result_type(float))
    pixels = image[..., 0]
    weight = np.zeros((*pixels.shape, top), image.dtype)
    source = weight.astype(np.int32)
    new = {
        "step": np.asarray(-1),
        "x": image,
        "x0": image,
        "weight": weight,
        **dict.fromkeys(("image", "row", "column"), source),
        **dict.fromkeys(("effective_number", "entropy"), pixels),
    }

    def check(state: dict[str, np.ndarray]) -> bool:
        return int(state["step"]) == len(found) and all(
            np.isfinite(array).all() for array in state.values()
        )

    found: list[dict[str, np.ndarray]] = []
    for name in names:
        state = states.load(name, new, check)
        if state is new:
            break
        found.append(state)
    return found


def _givers(
    machine: ScoreMachine, label: Int[np.ndarray, " b"] | None, top: Top
) -> Int[np.ndarray, " b"]:
    """The training image that gave most to each sample; -1 where there is no other.

    Args:
      machine: the machine.
      label: of each sample, [B].
      top: sources of all steps, [S, B, H, W, k].
    """
    labels = [None] * top.image.shape[1] if label is None else label.tolist()
    found = []
    for sample, one in enumerate(labels):
        image, weight = top.image[:, sample].ravel(), top.weight[:, sample].ravel()
        there = image >= 0
        given = np.bincount(image[there], weight[there] ** 2)
        start, stop = machine.training_set.bounds(one)
        found.append(given.argmax() if stop - start > 1 else -1)
    return np.array(found, np.int32)


def _repainted(
    sampler: ResumableSampler,
    machine: ScoreMachine,
    grid: Float[np.ndarray, " steps"],
    samples: Float[np.ndarray, "b h w c"],
    left_out: Int[np.ndarray, " b"],
    tell: Callable[[int], None],
) -> Float[np.ndarray, "b h w c"]:
    """The samples without the images that are left out; those where none is as they are."""
    repainted, taken = samples.copy(), 0
    for number in np.unique(left_out).tolist():
        places = np.flatnonzero(left_out == number)
        steps = len(places) * (len(grid) - 1)
        if number >= 0:

            def of_these(done: int, total: int, taken: int = taken, steps: int = steps) -> None:
                tell(taken + steps * done // total)

            less = machine.without([number])
            found = sampler.only(places).sample(f"without-{number}", less, grid, progress=of_these)
            repainted[places] = found.images
        taken += steps
        tell(taken)
    return repainted


def _side(machine: ScoreMachine, t: float) -> int:
    """The window at a time; 0 for the whole image."""
    window = machine.window
    return (window(t) if isinstance(window, WindowSchedule) else window) or 0


def _check_exact(machine: Any) -> None:
    """Raises ValueError unless this is a score machine of exact weights."""
    if isinstance(machine, IndexedMachine):
        raise ValueError(
            "machine is an IndexedMachine, of approximate weights; a mosaic needs exact ones: "
            "give the ScoreMachine that it was made of, before with_index"
        )
    checks.instance("machine", machine, ScoreMachine, "elsjax.ScoreMachine('is', images)")
