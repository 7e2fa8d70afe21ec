"""How often trousers have an excess of limbs: real ones, a network's and a machine's.

The last steps of a reverse process look through the smallest windows. If excess limbs come from
these, a machine whose windows are never so small has fewer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Real

from elsjax import checks
from elsjax.data.datasets import Dataset
from elsjax.experiments.mosaics.limbs import excess_limbs, wilson_interval
from elsjax.experiments.protocols import machine_grid
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.states import States
from elsjax.machines import ScoreMachine
from elsjax.posterior.dictionaries import Kind, Window
from elsjax.process.denoisers import Denoiser
from elsjax.process.windows import at_least

TROUSERS = 1
"""Their class in FashionMNIST."""
WIDE = 7
"""Smallest window of the machine of large windows."""


class Trousers(NamedTuple):
    """What trousers are made of and held against.

    Attributes:
      noise: noise to start from, [B, H, W, C].
      heldout: real trousers that are no training images, [N, H, W, C]; None without.
    """

    noise: Float[ArrayLike, "b h w c"]
    heldout: Real[np.ndarray, "n h w c"] | None = None


class Rate(NamedTuple):
    """How many of some images have an excess of limbs.

    Attributes:
      excess: their number.
      total: number of images.
    """

    excess: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate."""
        return wilson_interval(self.excess, self.total)


class LimbStudy:
    """Trousers of a network and of its machine, from the same noise, and real ones.

    Args:
      network: a conditional network of FashionMNIST.
      training: its training images, with labels.
      trousers: noise to start from, and held-out trousers.
      machine_window: window P(t) of the machine.
      kind: of the machine.
      num_steps: S; network and machine start at t = 1 - 1 / S.
      batch_size: samples drawn at once.
      mesh: devices of the machine; None for one.
      states: keeps the states on the way; None to keep none.

    Raises:
      ValueError: if an argument is not as described; computes nothing.
    """

    def __init__(
        self,
        network: Denoiser,
        training: Dataset,
        trousers: Trousers,
        machine_window: Window,
        kind: Kind,
        num_steps: int,
        *,
        batch_size: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
        states: States | None = None,
    ) -> None:
        if training.labels is None or TROUSERS not in training.labels:
            raise ValueError(f"training has no images of class {TROUSERS}, of trousers")
        self._real = {"training": training.pixels[training.labels == TROUSERS]}
        if trousers.heldout is not None:
            self._real["heldout"] = checks.training_images("trousers.heldout", trousers.heldout)
        machine = ScoreMachine(
            kind,
            training.pixels,
            training.labels,
            window=machine_window,
            schedule=network.schedule,
            mesh=mesh,
        )
        self._denoisers: dict[str, Denoiser] = {"network": network, kind: machine}
        wide = at_least(machine_window, WIDE)
        if wide != machine_window:
            self._denoisers[f"{kind}-wide"] = machine.with_window(wide)
        self._times, _ = machine_grid("late", num_steps, None)
        self._sampler = ResumableSampler(
            trousers.noise, TROUSERS, batch_size=batch_size, states=states
        )
        for denoiser in self._denoisers.values():
            self._sampler.check(denoiser, self._times)

    def rates(self, progress: Callable[[str, int, int], None] | None = None) -> dict[str, Rate]:
        """Draws the trousers and counts.

        Args:
          progress: called with what is drawn, the steps that are taken and their number.

        Returns:
          Rates of "training", "heldout" where there are any, "network", the machine's kind and,
          with a "-wide" behind it, that of the machine whose windows are `WIDE` or more.
        """
        images = dict(self._real)
        for name, denoiser in self._denoisers.items():

            def tell(done: int, total: int, name: str = name) -> None:
                if progress is not None:
                    progress(f"trousers, {name}", done, total)

            drawn = self._sampler.sample(f"limbs-{name}", denoiser, self._times, progress=tell)
            images[name] = drawn.images
        found = {}
        for name, of_source in images.items():
            excess = excess_limbs(of_source)
            found[name] = Rate(int(excess.sum()), len(excess))
        return found
