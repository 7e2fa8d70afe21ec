"""Denoisers composed of others, in what they say of the noise; guidance is the case of one part.

    eps = eps_base + sum_i w_i (eps_i - eps_base)

and so of x_0, which is linear in eps. (Bradley et al. 2025; Ho & Salimans 2022.)
"""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from elsjax import checks
from elsjax.process.denoisers import Denoiser
from elsjax.process.frozen import Frozen
from elsjax.references import Reference

Part = tuple[Denoiser, int | None]


class ComposedDenoiser(Frozen, Denoiser):
    """A base and parts, composed in the noise they predict, or in x_0, which is the same.

        eps = eps_base + sum_i w_i (eps_i - eps_base)

    The composition is exact, in the sense of projective composition (Bradley et al. 2025), where
    each part differs from the base in pixels of its own and its score there depends on these alone,
    as with score machines of small windows. Classifier-free guidance (Ho & Salimans 2022) is the
    case of one part: `ComposedDenoiser(machine, [(machine, None)], [w])`, and w = 1 + their weight.

    Labels: a part with a label of its own always gets that one. A part with None gets the label
    that `denoise` is called with. The base gets no label, unless it needs one, as a network that
    is conditional does: then it gets that of the call. What a denoiser that gets the call's label
    refuses is refused; so is a label that none of them gets.

    What has no weight, such as the base where the weights add up to 1, is not evaluated. It does
    not change, and is a pytree.

    Args:
      base: the denoiser that the parts are compared with.
      parts: pairs (denoiser, label), label a class or None, of the base's schedule, image shape and
        devices; at least one.
      weights: w_i, finite, one for each part.

    Raises:
      ValueError: if an argument is not as described, naming the part, or a part refuses its label.
    """

    _leaves = ("base", "parts")
    base: Denoiser
    parts: tuple[Denoiser, ...]
    labels: tuple[int | None, ...]
    weights: tuple[float, ...]
    base_is_labelled: bool

    def __init__(self, base: Denoiser, parts: Sequence[Part], weights: Sequence[float]) -> None:
        checks.instance("base", base, Denoiser, 'ScoreMachine("is", images)')
        if isinstance(parts, str) or not np.iterable(parts):
            raise ValueError(f"parts={parts!r} must be a sequence of pairs (denoiser, label)")
        checked = [_checked_part(f"parts[{i}]", part, base) for i, part in enumerate(parts)]
        if not checked:
            raise ValueError("parts is empty; expected at least one pair (denoiser, label)")
        vars(self).update(
            base=base,
            parts=tuple(denoiser for denoiser, _ in checked),
            labels=tuple(label for _, label in checked),
            weights=_checked_weights(weights, len(checked)),
            base_is_labelled=_needs_label(base),
            schedule=base.schedule,
            image_shape=base.image_shape,
            least_alpha=max(one.least_alpha for one in (base, *(part for part, _ in checked))),
        )

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The devices of the base and of the parts; None for one."""
        return self.base.mesh

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for composition and guidance, and for the base and the parts."""
        own = (
            Reference("bradley2025", "projective composition"),
            Reference("ho2022", "classifier-free guidance"),
        )
        return (*own, *(one for d in (self.base, *self.parts) for one in d.references))

    def with_mesh(self, mesh: jax.sharding.Mesh) -> "ComposedDenoiser":
        """The same denoiser, all that it is made of on other devices; see `Denoiser.with_mesh`."""
        parts = [part.with_mesh(mesh) for part in self.parts]
        pairs = list(zip(parts, self.labels, strict=True))
        return ComposedDenoiser(self.base.with_mesh(mesh), pairs, self.weights)

    def predict_noise(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        """Predicted noise, [B, H, W, C]; arguments and errors as `denoise`.

        Of networks that predict noise it is defined at any t.
        """
        x, t, label = self.checked(x, t, label)
        return self._combined(lambda d, label: d.predict_noise(x, t, label), label)

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        """See `Denoiser.check_label`; None is refused where a label is needed."""
        asked = [("base", self.base)] if self.base_is_labelled else []
        own = zip(self.parts, self.labels, strict=True)
        asked += [(f"parts[{i}]", part) for i, (part, one) in enumerate(own) if one is None]
        if label is not None and not asked:
            raise ValueError(f"label={label} was given, but every part has a label of its own")
        for name, denoiser in asked:
            _check_label(name, denoiser, label, batch)

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        return self._combined(lambda d, label: d.posterior_mean(x, t, label), label)

    def _combined(
        self, estimate: Callable[[Denoiser, ArrayLike | None], Array], label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """The weighted sum of estimates, each by a denoiser for its label."""
        rest = 1 - math.fsum(self.weights)
        terms: list[tuple[float, Denoiser, ArrayLike | None]] = [
            (rest, self.base, label if self.base_is_labelled else None)
        ]
        for weight, part, own in zip(self.weights, self.parts, self.labels, strict=True):
            terms.append((weight, part, label if own is None else own))
        return sum(w * estimate(part, given) for w, part, given in terms if w != 0)  # type: ignore[return-value]


def _checked_part(name: str, part: object, base: Denoiser) -> Part:
    """A part and its label; raises ValueError if it does not fit the base."""
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise ValueError(f"{name}={part!r} must be a pair (denoiser, label)")
    denoiser, label = part
    checks.instance(f"{name}[0]", denoiser, Denoiser, 'ScoreMachine("is", images)')
    for attribute in ("schedule", "image_shape", "mesh"):
        found, expected = getattr(denoiser, attribute), getattr(base, attribute)
        if found != expected:
            raise ValueError(f"{name} has {attribute}={found}; expected the base's, {expected}")
    if label is not None:
        label = checks.integer(f"{name}[1]", label, -(2**31), 2**31 - 1)
        _check_label(name, denoiser, label, 1)
    return denoiser, label


def _checked_weights(weights: object, count: int) -> tuple[float, ...]:
    """One finite weight for each part; raises ValueError if they are not that."""
    if isinstance(weights, str) or not np.iterable(weights):
        raise ValueError(f"weights={weights!r} must be a sequence of numbers")
    largest = float(np.finfo(np.float32).max)
    found = tuple(
        checks.in_range(f"weights[{i}]", weight, -largest, largest)
        for i, weight in enumerate(weights)  # type: ignore[arg-type]
    )
    if len(found) != count:
        raise ValueError(f"weights has {len(found)} numbers; expected {count}, one for each part")
    return found


def _check_label(name: str, denoiser: Denoiser, label: ArrayLike | None, batch: int) -> None:
    """Raises the ValueError of the denoiser's `check_label`, with its name."""
    try:
        denoiser.check_label(label, batch)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _needs_label(denoiser: Denoiser) -> bool:
    """Whether None is a label that it refuses."""
    try:
        denoiser.check_label(None, 1)
    except ValueError:
        return True
    return False
