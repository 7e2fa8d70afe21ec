"""Sampling in batches that goes on where it stopped: a state is kept after every step."""

import dataclasses
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int, Key

from elsjax import checks
from elsjax.experiments.states import States
from elsjax.process.denoisers import Denoiser
from elsjax.process.sampling import Solver, Step, keys_of_samples, reverse_process


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples of one denoiser.

    Attributes:
      times: time grid, falling, [S + 1].
      images: the samples, [B, H, W, C].
      x0: posterior means E[x_0 | x_t] at the start of the K steps that were asked for,
        [K, B, H, W, C].
    """

    times: Float[np.ndarray, " states"]
    images: Float[np.ndarray, "b h w c"]
    x0: Float[np.ndarray, "k b h w c"]


class ResumableSampler:
    """Samples of one denoiser after another, from the same noise.

    Args:
      noise: noise to start from, [B, H, W, C].
      label: class to condition on, integer or [B]; None for unconditional.
      solver: see `elsjax.sample`.
      key: see `elsjax.sample`.
      batch_size: samples drawn at once; None for all.
      states: keeps the state of each batch; None to keep none.

    Attributes:
      noise: noise to start from, [B, H, W, C].
      label: class of each sample, [B]; None without.
      batches: which samples are drawn at once.

    Raises:
      ValueError: if label, key or batch_size is not as described, or noise has no samples.
    """

    def __init__(
        self,
        noise: Float[ArrayLike, "b h w c"],
        label: Int[ArrayLike, "..."] | None = None,
        *,
        solver: Solver = "ddim",
        key: Key[jax.Array, "..."] | None = None,
        batch_size: int | None = None,
        states: States | None = None,
    ) -> None:
        self.noise = np.asarray(checks.noisy_images("noise", noise))
        count = len(self.noise)
        self.label = None
        if label is not None:
            self.label = np.broadcast_to(checks.label("label", label, count), count)
        size = count if batch_size is None else checks.positive_int("batch_size", batch_size)
        self._batch_size = size
        self.batches = [slice(first, first + size) for first in range(0, count, size)]
        self._solver: Solver = solver
        self._keys = None if key is None else keys_of_samples(key, count)
        self._states = States() if states is None else states

    def check(self, denoiser: Denoiser, times: ArrayLike) -> None:
        """Raises the ValueError that `sample` would raise; computes nothing."""
        self.steps(denoiser, times, slice(None), self.noise, 0)

    def steps(
        self,
        denoiser: Denoiser,
        times: ArrayLike,
        batch: slice,
        x: Float[ArrayLike, "b h w c"],
        taken: int,
    ) -> Iterator[Step]:
        """The reverse process of a batch, from its state after some steps.

        Args:
          denoiser: what estimates the clean images.
          times: time grid, falling, [S + 1].
          batch: which samples.
          x: their state, [B, H, W, C].
          taken: number of steps that led to it.

        Returns:
          An iterator over the steps that are left.

        Raises:
          ValueError: as `elsjax.reverse_process`.
        """
        return reverse_process(
            denoiser,
            x,
            label=None if self.label is None else self.label[batch],
            solver=self._solver,
            key=None if self._keys is None else self._keys[batch],
            times=times,
            first_step=taken,
        )

    def only(self, samples: Int[np.ndarray, " some"]) -> Self:
        """The same for some of the samples, with their own noise, labels and keys.

        Args:
          samples: their numbers, [some].

        Returns:
          A sampler of these.
        """
        return type(self)(
            self.noise[samples],
            None if self.label is None else self.label[samples],
            solver=self._solver,
            key=None if self._keys is None else self._keys[samples],
            batch_size=self._batch_size,
            states=self._states,
        )

    def sample(
        self,
        name: str,
        denoiser: Denoiser,
        times: Float[np.ndarray, " states"],
        kept: Sequence[int] = (),
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Runs the reverse process, batch by batch.

        Args:
          name: of the denoiser, by which its states are known.
          denoiser: what estimates the clean images.
          times: time grid, falling, [S + 1].
          kept: steps whose posterior means are returned, from 0.
          progress: called with the steps that are taken, over all batches, and their number; at
            first before any is.

        Returns:
          The samples, with K = len(kept) posterior means of each.

        Raises:
          ValueError: as `elsjax.sample`.
        """
        num_steps = len(times) - 1
        taken = 0
        done = []
        for batch in self.batches:
            state_name = f"{urllib.parse.quote(name, safe='')}-{batch.start}"
            state = self._start(state_name, self.noise[batch], len(kept), num_steps)
            taken += int(state["taken"])
            if progress is not None:
                progress(taken, len(self.batches) * num_steps)
            if state["taken"] < num_steps:
                first = int(state["taken"])
                for step in self.steps(denoiser, times, batch, state["x"], first):
                    _advance(state, step, kept)
                    self._states.save(state_name, state)
                    taken += 1
                    if progress is not None:
                        progress(taken, len(self.batches) * num_steps)
            done.append(state)
        return Samples(
            np.asarray(times),
            np.concatenate([state["x"] for state in done]),
            np.concatenate([state["x0"] for state in done], axis=1),
        )

    def _start(
        self, name: str, x: Float[np.ndarray, "b h w c"], num_kept: int, num_steps: int
    ) -> dict[str, np.ndarray]:
        """The state of a batch: where an earlier start left it, or at its noise."""
        x = np.asarray(x, jnp.result_type(float))

        def check(state: dict[str, np.ndarray]) -> bool:
            finite = np.isfinite(state["x"]).all() and np.isfinite(state["x0"]).all()
            return bool(finite) and 0 <= int(state["taken"]) <= num_steps

        x0 = np.zeros((num_kept, *x.shape), x.dtype)
        return self._states.load(name, {"x": x, "x0": x0, "taken": np.asarray(0)}, check)


def _advance(state: dict[str, np.ndarray], step: Step, kept: Sequence[int]) -> None:
    """Takes a step of the reverse process into a state."""
    state["x"] = np.asarray(step.x)
    state["taken"] = np.asarray(step.index + 1)
    if step.index in kept:
        state["x0"][list(kept).index(step.index)] = step.x0
