"""Which training images a golden subset keeps of one noisy image, and what the others may weigh.

With pool(z) the means over blocks of n_b pixels and Q z what they leave out, the squared distance
of x to alpha times a training image y is bounded from below by

    |x - alpha y|² >= n_b |pool(x - alpha y)|² + (|Q x| - alpha |Q y|)²

since pool and Q are orthogonal. The first term is the coarse distance, the second costs one number
an image. Exponents are exact for images whose distance is computed, and bounded for the others; as
pixels lie in [-1, 1], the error of the mean over a subset is at most twice the weight outside it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from elsjax.pixels import to_float

# sigma = 0 is the limit sigma -> 0: of two distances that differ at all the larger has no weight.
_LEAST_VARIANCE = 1e-24


class Pooled(NamedTuple):
    """Images as the screening sees them.

    Attributes:
      coarse: means over blocks, times the root of the number of pixels, [N, h w C].
      rest: norm of what the means leave out, [N].
    """

    coarse: Float[Array, "n d"]
    rest: Float[Array, " n"]


class Screened(NamedTuple):
    """Training images of a data set as one noisy image is compared with them.

    Attributes:
      pixels: of all images, as they are stored, in rows: gathered much faster so, [N, H W C].
      pooled: the same images.
      members: places of the images that count, by their numbers; those from `number` on do not.
      number: how many count.
    """

    pixels: Num[Array, "n p"]
    pooled: Pooled
    members: Int[Array, " n"]
    number: Int[Array, ""]


class Noisy(NamedTuple):
    """A noisy image, [H W C], its levels, and itself pooled, [h w C] and scalar."""

    x: Float[Array, " p"]
    alpha: Float[Array, ""]
    sigma: Float[Array, ""]
    pooled: Pooled


class Subset(NamedTuple):
    """The mean over a subset.

    Attributes:
      mean: over the images kept, [H W C], or [B, H, W, C] of a batch.
      bound: on its error in each pixel.
      kept: which of the members are kept, [N].
    """

    mean: Float[Array, "..."]
    bound: Float[Array, "..."]
    kept: Bool[Array, "..."]


def pooled(images: Float[Array, "n h w c"], pool: int) -> Pooled:
    """Means over blocks of pool × pixels, those at the edge over what they have of them."""
    count, height, width, _ = images.shape
    padding = [(0, 0), (0, -height % pool), (0, -width % pool), (0, 0)]
    rows, columns = -(-height // pool), -(-width // pool)

    def sums(array: Array) -> Array:
        blocks = jnp.pad(array, padding).reshape(-1, rows, pool, columns, pool, array.shape[-1])
        return blocks.sum((2, 4))

    sizes = sums(jnp.ones((1, height, width, 1), images.dtype))
    means = sums(images) / sizes
    spread = means.repeat(pool, 1).repeat(pool, 2)[:, :height, :width]
    rest = jnp.sqrt(((images - spread) ** 2).sum((1, 2, 3)))
    return Pooled((means * jnp.sqrt(sizes)).reshape(count, -1), rest)


def by_sizes(noisy: Noisy, images: Screened, block: int) -> Subset:
    """The published subset: m of the least coarse distance, of these k of the least distance.

        k = round(n/10 - (n/10 - n/20)(1 - sigma)),   m = round(n/10 + (n - n/10)(1 - sigma))

    of n images, each at least 1; of equal distances the smaller number comes first.
    """
    n, clean = images.number.astype(noisy.x.dtype), 1 - noisy.sigma
    k = jnp.maximum(1, jnp.round(n / 10 - (n / 10 - n / 20) * clean)).astype(int)
    m = jnp.maximum(1, jnp.round(n / 10 + (n - n / 10) * clean)).astype(int)
    coarse, lower = _coarse_squares(noisy, images, block)
    screened = _smallest(coarse, m)
    squares = _squares_of(noisy, images, screened, block)
    kept = _smallest(squares, k)
    least = squares.min()
    weights = jnp.where(screened, jnp.exp(_exponent(least, squares, noisy)), 0)
    mean = _mean_of(images, kept, weights, block)
    left = jnp.isfinite(lower) & ~screened
    outside = jnp.where(left, jnp.exp(_exponent(least, lower, noisy)), 0).sum()
    outside += jnp.where(kept, 0, weights).sum()
    return Subset(mean, jnp.minimum(2, 2 * outside / weights.sum()), kept)


def by_tolerance(
    noisy: Noisy, images: Screened, block: int, tolerance: float | Float[Array, ""]
) -> Subset:
    """The smallest subset, by rising lower bounds of distance, whose bound is at most tolerance.

    Of equal bounds the smaller number comes first. Distances are computed block by block, until the
    bound is low enough; the subset ends within the last block, so it does not depend on their size.
    """
    size = len(images.members)
    _, lower = _coarse_squares(noisy, images, block)
    order = jnp.argsort(lower)
    order = jnp.pad(order, (0, -size % block), constant_values=size)  # beyond all members
    lower = jnp.append(lower, jnp.inf)[order]
    first = _squares_at(noisy, images, order[:1])[0]  # what exponents are relative to
    bounds = _exponent(first, lower, noisy).reshape(-1, block)
    later = lax.cumlogsumexp(jax.nn.logsumexp(bounds, 1), reverse=True)
    later = jnp.append(later, -jnp.inf)[1:]  # weight, at most, of all later blocks

    def step(state: tuple) -> tuple:
        index, top, total, weighted, _, number, _ = state
        places = lax.dynamic_slice_in_dim(order, index * block, block)
        within = index * block + jnp.arange(block) < images.number
        squares = _squares_at(noisy, images, places)
        exponents = jnp.where(within, _exponent(first, squares, noisy), -jnp.inf)
        inside = jnp.logaddexp(top + jnp.log(total), lax.cumlogsumexp(exponents))
        outside = jnp.append(lax.cumlogsumexp(bounds[index], reverse=True)[1:], -jnp.inf)
        outside = jnp.logaddexp(outside, later[index])
        bound = jnp.minimum(2, 2 * jnp.exp(outside - inside))
        enough = within & (bound <= tolerance)
        done = enough.any()
        last = jnp.where(done, jnp.argmax(enough), block - 1)
        used = within & (jnp.arange(block) <= last)
        exponents = jnp.where(used, exponents, -jnp.inf)
        new_top = jnp.maximum(top, exponents.max())
        weights, scale = jnp.exp(exponents - new_top), jnp.exp(top - new_top)
        weighted = scale * weighted + _weighted(images, places, weights)
        total = scale * total + weights.sum()
        return index + 1, new_top, total, weighted, bound[last], number + used.sum(), done

    def goes_on(state: tuple) -> Array:
        return ~state[-1] & (state[0] * block < images.number)

    nothing = jnp.zeros((), noisy.x.dtype)
    start = (0, nothing, nothing, jnp.zeros_like(noisy.x), nothing * jnp.nan, 0, False)
    _, _, total, weighted, bound, number, _ = lax.while_loop(goes_on, step, start)
    kept = jnp.zeros(size, bool).at[order].set(jnp.arange(len(order)) < number, mode="drop")
    return Subset(weighted / total, bound, kept)


def _exponent(least: Array, squares: Array, noisy: Noisy) -> Array:
    """(least - squares) / 2 sigma², at sigma = 0 the limit."""
    return (least - squares) / jnp.maximum(2 * noisy.sigma**2, _LEAST_VARIANCE)


def _coarse_squares(
    noisy: Noisy, images: Screened, block: int
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Squared coarse distance of each member, and the lower bound; infinite beyond the members."""
    size = len(images.members)

    def step(index: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        places = index * block + jnp.arange(block)
        members = images.members[jnp.minimum(places, size - 1)]
        coarse = _squares(noisy.pooled.coarse[None], noisy.alpha * images.pooled.coarse[members])
        apart = noisy.pooled.rest - noisy.alpha * images.pooled.rest[members]
        places = jnp.where(places < images.number, places, size)
        values = (coarse, coarse + apart**2)
        return tuple(  # type: ignore[return-value]
            array.at[places].set(value, mode="drop")
            for array, value in zip(found, values, strict=True)
        )

    nowhere = jnp.full(size, jnp.inf, noisy.x.dtype)
    return lax.fori_loop(0, _blocks(images.number, block), step, (nowhere, nowhere))


def _squares_of(
    noisy: Noisy, images: Screened, chosen: Bool[Array, " n"], block: int
) -> Float[Array, " n"]:
    """Squared distance of the members that are chosen; infinite for the others."""
    places = _places(chosen, block)

    def step(index: Array, found: Array) -> Array:
        of_block = lax.dynamic_slice_in_dim(places, index * block, block)
        return found.at[of_block].set(_squares_at(noisy, images, of_block), mode="drop")

    nowhere = jnp.full(len(chosen), jnp.inf, noisy.x.dtype)
    return lax.fori_loop(0, _blocks(chosen.sum(), block), step, nowhere)


def _mean_of(
    images: Screened,
    kept: Bool[Array, " n"],
    weights: Float[Array, " n"],
    block: int,
) -> Float[Array, " p"]:
    """Mean over the members that are kept."""
    places = _places(kept, block)
    weights = jnp.append(jnp.where(kept, weights, 0), 0)

    def step(index: Array, total: Array) -> Array:
        of_block = lax.dynamic_slice_in_dim(places, index * block, block)
        return total + _weighted(images, of_block, weights[of_block])

    nothing = jnp.zeros(images.pixels.shape[1], weights.dtype)
    return lax.fori_loop(0, _blocks(kept.sum(), block), step, nothing) / weights.sum()


def _squares_at(noisy: Noisy, images: Screened, places: Int[Array, " b"]) -> Float[Array, " b"]:
    """Squared distances of x to alpha times some members."""
    clean = _images(images, places, noisy.x.dtype)
    return _squares(noisy.x[None], noisy.alpha * clean)


def _weighted(
    images: Screened, places: Int[Array, " b"], weights: Float[Array, " b"]
) -> Float[Array, " p"]:
    """Weighted sum of some members."""
    clean = _images(images, places, weights.dtype)
    return jnp.matmul(weights, clean, precision=lax.Precision.HIGHEST)


def _images(images: Screened, places: Int[Array, " b"], dtype: jnp.dtype) -> Float[Array, "b p"]:
    """Some members; beyond the last, the last again."""
    members = images.members[jnp.minimum(places, len(images.members) - 1)]
    return to_float(images.pixels[members], dtype)


def _squares(a: Float[Array, "1 d"], b: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Squared distances, of the differences themselves: nothing large cancels."""
    apart = a - b
    return jnp.einsum("nd,nd->n", apart, apart, precision=lax.Precision.HIGHEST)


def _places(chosen: Bool[Array, " n"], block: int) -> Int[Array, " m"]:
    """Where those chosen are, then n, to full blocks."""
    size = len(chosen) + -len(chosen) % block
    return jnp.nonzero(chosen, size=size, fill_value=len(chosen))[0]


def _blocks(count: Int[Array, ""], block: int) -> Int[Array, ""]:
    return -(-count // block)


def _smallest(values: Float[Array, " n"], count: Int[Array, ""]) -> Bool[Array, " n"]:
    """Which are the smallest, so many; of equal ones the first. None where they are infinite.

    The largest of them is found by bisection: the bits of numbers that are not negative are in
    their order.
    """
    bits = jnp.iinfo(f"int{8 * values.dtype.itemsize}")
    numbers = lax.bitcast_convert_type(values, bits.dtype)

    def halved(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        enough = (numbers <= middle).sum() >= count
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    ends = (jnp.asarray(0, bits.dtype), jnp.asarray(bits.max, bits.dtype))
    limit, _ = lax.fori_loop(0, bits.bits, halved, ends)
    below, equal = numbers < limit, numbers == limit
    first = jnp.cumsum(equal) <= count - below.sum()
    return (below | (equal & first)) & jnp.isfinite(values)
