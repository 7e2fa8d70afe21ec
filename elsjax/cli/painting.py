"""Samples batch by batch, saved after every step of the reverse process."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import elsjax
from elsjax.experiments.runs import Run
from elsjax.process.denoisers import Denoiser
from elsjax.process.sampling import Solver, Step, sample_keys


class Painter:
    """Paints the same noise with one denoiser after another, going on where a run stopped.

    Args:
      run: the folder that keeps the states.
      noise: noise to start from, [B, H, W, C].
      label: class of each sample, [B], or None.
      batch_size: samples painted at once.
      key: randomness of the solver "ancestral", or None.
    """

    def __init__(
        self,
        run: Run,
        noise: np.ndarray,
        label: np.ndarray | None,
        batch_size: int,
        key: jax.Array | None = None,
    ) -> None:
        self._run = run
        self._noise = noise
        self._label = label
        self._key = key
        self._batches = [
            slice(first, first + batch_size) for first in range(0, len(noise), batch_size)
        ]
        self._states: list[str] = []

    def check(self, denoiser: Denoiser, times: np.ndarray, solver: Solver = "ddim") -> None:
        """Raises the ValueError that `paint` would raise at its first step; computes nothing."""
        self._steps(denoiser, times, solver, slice(None), self._noise, 0)

    def paint(
        self,
        name: str,
        denoiser: Denoiser,
        times: np.ndarray,
        kept: Sequence[int],
        solver: Solver = "ddim",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Runs the reverse process, with a progress bar.

        Args:
          name: of the denoiser, in file names and in the progress bar.
          denoiser: what estimates the clean images.
          times: time grid, falling, [S + 1].
          kept: steps whose posterior means are returned.
          solver: see `elsjax.sample`.

        Returns:
          `(samples, x0)`: samples [B, H, W, C], posterior means [len(kept), B, H, W, C].
        """
        num_steps = len(times) - 1
        done = []
        with tqdm(total=len(self._batches) * num_steps, desc=name, unit="step") as bar:
            for batch in self._batches:
                file = f"state-{name}-{batch.start}.npz"
                self._states.append(file)
                state = self._start(file, self._noise[batch], len(kept), num_steps)
                bar.update(int(state["taken"]))
                if state["taken"] < num_steps:
                    self._go_on(file, denoiser, times, kept, solver, batch, state, bar)
                done.append(state)
        return (
            np.concatenate([state["x"] for state in done]),
            np.concatenate([state["x0"] for state in done], axis=1),
        )

    def forget(self) -> None:
        """Removes the states, once what they led to is written."""
        for file in self._states:
            self._run.remove(file)

    def _start(
        self, file: str, x: np.ndarray, num_kept: int, num_steps: int
    ) -> dict[str, np.ndarray]:
        """The state of a batch: where an earlier start left it, or at its noise."""
        x = np.asarray(x, jnp.result_type(float))
        new = {
            "x": x,
            "x0": np.zeros((num_kept, *x.shape), x.dtype),
            "taken": np.asarray(0),
        }
        like = {name: (array.dtype, array.shape) for name, array in new.items()}
        state = self._run.load_arrays(file, like)
        if state is None:
            return new
        finite = np.isfinite(state["x"]).all() and np.isfinite(state["x0"]).all()
        if not finite or not 0 <= state["taken"] <= num_steps:
            self._run.warn_damaged(file, "no state of this run")
            return new
        return state

    def _steps(
        self,
        denoiser: Denoiser,
        times: np.ndarray,
        solver: Solver,
        batch: slice,
        x: np.ndarray,
        taken: int,
    ) -> Iterator[Step]:
        """The reverse process of a batch, from its state after some steps."""
        return elsjax.reverse_process(
            denoiser,
            x,
            label=None if self._label is None else self._label[batch],
            solver=solver,
            key=None if self._key is None else sample_keys(self._key, len(self._noise))[batch],
            times=times,
            first_step=taken,
        )

    def _go_on(
        self,
        file: str,
        denoiser: Denoiser,
        times: np.ndarray,
        kept: Sequence[int],
        solver: Solver,
        batch: slice,
        state: dict[str, np.ndarray],
        bar: tqdm,
    ) -> None:
        """Takes the steps of one batch that are left."""
        taken = int(state["taken"])
        for step in self._steps(denoiser, times, solver, batch, state["x"], taken):
            state["x"] = np.asarray(step.x)
            state["taken"] = np.asarray(step.index + 1)
            if step.index in kept:
                state["x0"][list(kept).index(step.index)] = step.x0
            self._run.save_arrays(file, state)
            bar.set_postfix_str(f"t={step.s:.2f}")
            bar.update()
