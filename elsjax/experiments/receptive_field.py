"""Receptive fields: how much each pixel of x_t changes what a denoiser says of one pixel.

    field(q) = mean over noisy images and channels of |d E[x_0(i) | x_t] / d x_t(q)|

Of a network it is had by differentiation. The Jacobian of a score machine is a covariance over its
dictionary: of the value v that a patch p has at its centre, with the patch,

    d E[x_0(i) | x_t] / d x_t(q) = alpha / sigma² (E_w[v p(q)] - E_w[v] E_w[p(q)])

and 0 outside the window. (Kamb & Ganguli 2025, figure 4, has those of networks.)
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from elsjax import checks
from elsjax.machines import ScoreMachine
from elsjax.pixels import to_float
from elsjax.posterior.dictionaries import AxisPart, Dictionary, ImagePart, coordinates
from elsjax.process.denoisers import Denoiser
from elsjax.process.windows import WindowSchedule

_BLOCK_BYTES = 64 * 2**20  # of patches at once
_EXACT = jax.lax.Precision.HIGHEST


def receptive_field(
    denoiser: Denoiser,
    x: Float[ArrayLike, "b h w c"],
    t: float,
    label: Int[ArrayLike, "..."] | None = None,
    *,
    pixel: tuple[int, int] | None = None,
) -> Float[np.ndarray, "h w"]:
    """How much each pixel of noisy images changes the estimate at one pixel.

    Args:
      denoiser: a `ScoreMachine`, whose Jacobian is computed from its dictionary, or any denoiser
        that JAX can differentiate, such as a network.
      x: noisy images, [B, H, W, C].
      t: time in (0, 1]; 1 is noise.
      label: class to condition on, integer or [B]; None for unconditional.
      pixel: (row, column) of the estimate; None for the middle.

    Returns:
      The mean over images and channels of the absolute derivatives, [H, W].

    Raises:
      ValueError: if an argument is not as described, or the denoiser refuses it.
    """
    checks.instance("denoiser", denoiser, Denoiser, "a ScoreMachine or a network")
    t = checks.in_range("t", t, 0, 1)
    checked, _, label = denoiser.checked(x, t, label)
    height, width = checked.shape[1:3]
    if pixel is None:
        pixel = height // 2, width // 2
    row = checks.integer("pixel[0]", pixel[0], 0, height - 1)
    column = checks.integer("pixel[1]", pixel[1], 0, width - 1)
    alpha, sigma = (float(level) for level in denoiser.schedule(t))
    if sigma == 0:
        raise ValueError(f"t={t} must be positive here: no noise is left at sigma_t = 0")
    if not isinstance(denoiser, ScoreMachine):
        return _by_differentiation(denoiser, checked, t, label, (row, column))
    window = denoiser.window(t) if isinstance(denoiser.window, WindowSchedule) else denoiser.window
    patches = _Patches.of(denoiser.dictionary(window), (row, column))
    images, _ = denoiser.training_set.on_host()
    labels = (
        [None] * len(checked) if label is None else np.broadcast_to(label, len(checked)).tolist()
    )
    total = np.zeros((height, width))
    for one, of_one in zip(checked, labels, strict=True):
        start, stop = denoiser.training_set.bounds(of_one)
        total += _by_covariance(patches, images[start:stop], one, alpha, sigma)
    return total / len(checked)


def side_of_mass(
    field: Float[np.ndarray, "h w"], share: float, *, pixel: tuple[int, int] | None = None
) -> int:
    """Odd side of the smallest square around a pixel that holds a share of a receptive field.

    Args:
      field: as `receptive_field` returns it, [H, W].
      share: of its sum, in (0, 1].
      pixel: see `receptive_field`.

    Returns:
      The side.

    Raises:
      ValueError: if an argument is not as described.
    """
    share = checks.in_range("share", share, 0, 1)
    field = np.asarray(field)
    if field.ndim != 2:
        raise ValueError(f"field has shape {list(field.shape)}; expected [H, W]")
    row, column = (length // 2 for length in field.shape) if pixel is None else pixel
    distance = np.maximum(
        np.abs(np.arange(field.shape[0]) - row)[:, None], np.abs(np.arange(field.shape[1]) - column)
    )
    within = np.cumsum(np.bincount(distance.ravel(), weights=field.ravel()))
    # The whole sum may differ by a rounding from that of the rings.
    reached = within >= share * within[-1] * (1 - 1e-12)
    return 2 * int(np.argmax(reached)) + 1


def _by_differentiation(
    denoiser: Denoiser,
    x: Float[Array, "b h w c"],
    t: float,
    label: ArrayLike | None,
    pixel: tuple[int, int],
) -> Float[np.ndarray, "h w"]:
    estimate, pull_back = jax.vjp(lambda x: denoiser.posterior_mean(x, t, label), x)
    total = np.zeros(x.shape[1:3])
    for channel in range(x.shape[3]):
        # An estimate depends on its own noisy image alone.
        direction = jnp.zeros_like(estimate).at[:, *pixel, channel].set(1)
        total += np.abs(np.asarray(pull_back(direction)[0])).mean((0, 3))
    return total / x.shape[3]


class _Patches(NamedTuple):
    """Where the entries of a pixel's dictionary lie in an image, as flat indices.

    Attributes:
      window: places of the noisy image that the pixel sees, [e].
      entries: places of each patch that is compared with them, [k, e].
      centres: the place that each patch gives, [k].
    """

    window: Int[np.ndarray, " e"]
    entries: Int[np.ndarray, "k e"]
    centres: Int[np.ndarray, " k"]

    @classmethod
    def of(cls, dictionary: Dictionary, pixel: tuple[int, int]) -> "_Patches":
        """Those of a pixel."""
        height, width, _ = dictionary.image_shape
        place = pixel[0] * width + pixel[1]
        part = next(part for part in dictionary.parts if place in part.pixels)
        if isinstance(part, ImagePart):
            everywhere = np.arange(height * width)
            if not part.translates:
                return cls(everywhere, everywhere[None], np.array([place]))
            shifts = [(r, c) for r in range(height) for c in range(width)]
            square = everywhere.reshape(height, width)
            entries = np.stack([np.roll(square, shift, (0, 1)).ravel() for shift in shifts])
            return cls(everywhere, entries, entries[:, place])
        circular = part.padding == "circular"
        rows = _along(part.rows, pixel[0], part.window[0], height, circular=circular)
        columns = _along(part.columns, pixel[1], part.window[1], width, circular=circular)
        (window_r, entries_r, centres_r), (window_c, entries_c, centres_c) = rows, columns
        return cls(
            (window_r[:, None] * width + window_c).ravel(),
            (entries_r[:, None, :, None] * width + entries_c[None, :, None]).reshape(
                len(centres_r) * len(centres_c), -1
            ),
            (centres_r[:, None] * width + centres_c).ravel(),
        )


def _along(
    axis: AxisPart, coordinate: int, side: int, length: int, *, circular: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of the window, of the patches' entries and of their centres along an axis."""
    reach = np.arange(-(side // 2), side // 2 + 1)
    centres = np.array([coordinate]) if axis.tied else coordinates(axis.keys)
    if circular:
        return (coordinate + reach) % length, (centres[:, None] + reach) % length, centres
    # Outside of the image noisy images and patches alike are zero.
    inside = (coordinate + reach >= 0) & (coordinate + reach < length)
    return coordinate + reach[inside], centres[:, None] + reach[inside], centres


def _by_covariance(
    patches: _Patches,
    images: np.ndarray,
    x: Float[Array, "h w c"],
    alpha: float,
    sigma: float,
) -> Float[np.ndarray, "h w"]:
    """Mean over channels of the absolute derivatives for one noisy image."""
    height, width, channels = x.shape
    query = x.reshape(-1, channels)[patches.window]
    per_image = patches.entries.size * channels * x.dtype.itemsize
    size = max(1, min(len(images), _BLOCK_BYTES // per_image))
    seen = None
    for first in range(0, len(images), size):
        # The last block is filled up with its last image, which then counts 0 times.
        places = np.minimum(np.arange(first, first + size), len(images) - 1)
        counts = jnp.asarray(np.arange(first, first + size) < len(images), x.dtype)
        block = jnp.asarray(images[places])
        found = _moments(block, counts, query, patches.entries, patches.centres, alpha, sigma)
        seen = found if seen is None else _merged(seen, found)
    assert seen is not None  # there is an image
    _, weight, value, patch, product = seen
    covariance = product / weight - (value / weight)[:, None, None] * (patch / weight)[None]
    slopes = np.abs(np.asarray(covariance)).mean((0, 2)) * alpha / sigma**2
    field = np.zeros(height * width)
    np.add.at(field, patches.window, slopes)
    return field.reshape(height, width)


@jax.jit
def _moments(
    pixels: Array,
    counts: Float[Array, " n"],
    query: Float[Array, "e c"],
    entries: Int[Array, "k e"],
    centres: Int[Array, " k"],
    alpha: Float[ArrayLike, ""],
    sigma: Float[ArrayLike, ""],
) -> tuple[Array, ...]:
    """Largest logit, and sums over the patches of w, w v, w p and w v p, w = exp(logit - it)."""
    images = to_float(pixels, query.dtype).reshape(len(pixels), -1, query.shape[1])
    keys, values = images[:, entries], images[:, centres]  # [n, k, e, c], [n, k, c]
    squares = jnp.sum((query[None, None] - alpha * keys) ** 2, (2, 3))
    logits = jnp.where(counts[:, None] > 0, -squares / (2 * sigma**2), -jnp.inf)
    largest = logits.max()
    weights = jnp.exp(logits - largest)
    total = functools.partial(jnp.einsum, precision=_EXACT)
    return (
        largest,
        weights.sum(),
        total("nk,nkv->v", weights, values),
        total("nk,nkec->ec", weights, keys),
        total("nkv,nkec->vec", weights[..., None] * values, keys),
    )


@jax.jit
def _merged(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """The sums over two blocks."""
    largest = jnp.maximum(a[0], b[0])
    scales = [jnp.exp(one[0] - largest) for one in (a, b)]
    return (largest, *(scales[0] * p + scales[1] * q for p, q in zip(a[1:], b[1:], strict=True)))
