"""The best linear estimate of each pixel, from the mean and covariance of whole images.

A class of pixels shares its patches: the windows of training images at s places relative to it.
Their mean and covariance are averages of pieces of the whole images', and

    x_0(i) = mu_i + g · (x_t[Ω_i] - alpha mu),   (alpha² S + sigma² I) g = alpha S_Ω,i.

Axis names: n tiles, t pixels of a tile, u pixels of the union of their windows, s places of a
patch, q pixels to estimate for each of a tile (see `elsjax.analytic.tiles`); c channels, d = hwc.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, Num

from elsjax.analytic.factor import inverse_factor, product, solve
from elsjax.analytic.tiles import Tiles, tiles_of
from elsjax.posterior.dictionaries import Dictionary, ImagePart, ImageShape, Part

# Bytes of the tiles, and of the windows of noisy images, that are looked at at once.
_AT_ONCE = 2**26


def estimate(
    dictionary: Dictionary,
    mean: Float[Array, " d"],
    covariance: Float[Array, "d d"],
    x: Float[Array, "b h w c"],
    alpha: Float[Array, ""],
    sigma: Float[Array, ""],
) -> Float[Array, "b h w c"]:
    """The best linear estimate of x_0.

    Args:
      dictionary: what each pixel is estimated from.
      mean: of the training images, [D].
      covariance: of them, [D, D].
      x: noisy images, [B, H, W, C].
      alpha: their signal level.
      sigma: their noise level.

    Returns:
      The estimate, [B, H, W, C].
    """
    parts = _parts(dictionary)
    if isinstance(parts[0], ImagePart):
        of_images = _of_translates if parts[0].translates else _of_images
        return of_images(mean, covariance, x, alpha, sigma)
    translated = None
    if dictionary.wrap_patches:
        translated = _translated(mean, covariance, dictionary.image_shape)
    values, pixels = [], []
    for part in parts:
        tiles = tiles_of(part)
        found = _of_tiles(tiles, mean, covariance, translated, x, alpha, sigma)
        values.append(found.reshape(-1, *found.shape[-2:]))
        pixels.append(tiles.pixels(*x.shape[1:3]).ravel())
    _, first = np.unique(np.concatenate(pixels), return_index=True)
    return jnp.moveaxis(jnp.concatenate(values)[first], 0, 1).reshape(x.shape)


def bytes_needed(dictionary: Dictionary) -> int:
    """Bytes that `estimate` uses beside its arguments, and a copy of the covariance of a class."""
    parts = _parts(dictionary)
    itemsize = np.dtype(jnp.result_type(float)).itemsize
    if isinstance(parts[0], ImagePart):
        return (2 if parts[0].translates else 4) * parts[0].key_size ** 2 * itemsize
    size, most = math.prod(dictionary.image_shape), 0
    for part in parts:
        tiles = tiles_of(part)
        each = _bytes(tiles, part.value_size)
        most = max(most, each * _batch(len(tiles.rows), each))
    return size**2 * itemsize + most


def _parts(dictionary: Dictionary) -> tuple[Part, ...]:
    """The parts of a dictionary; one of the whole image where every window sees all of it."""
    sides = dictionary.image_shape[:2]
    whole = dictionary.window is not None and dictionary.window >= 2 * max(sides) - 1
    return (ImagePart(dictionary.image_shape, translates=False),) if whole else dictionary.parts


def _of_images(mean: Array, covariance: Array, x: Array, alpha: Array, sigma: Array) -> Array:
    """`estimate` from whole images."""
    noise = _noise(alpha, sigma, jnp.trace(covariance))
    factor = inverse_factor(_with_noise(alpha**2 * covariance, noise))
    apart = x.reshape(len(x), -1).T - alpha * mean[:, None]
    found = alpha * product(covariance, solve(factor, apart))
    return (mean[:, None] + found).T.reshape(x.shape)


def _of_translates(mean: Array, covariance: Array, x: Array, alpha: Array, sigma: Array) -> Array:
    """`estimate` from all translates of images: frequencies are independent of each other."""
    _, height, width, channels = x.shape
    of_pixel, by_offset = _translated(mean, covariance, (height, width, channels))
    spectrum = _transformed(by_offset, 1)  # [h, w, c, c], Hermitian
    of_parts = jnp.block([[spectrum.real, -spectrum.imag], [spectrum.imag, spectrum.real]])
    of_parts = of_parts.reshape(height * width, 2 * channels, 2 * channels)
    apart = _transformed(jnp.moveaxis(x - alpha * of_pixel[None, None, None], 0, -1), -1)
    apart = jnp.concatenate([apart.real, apart.imag], axis=2).reshape(len(of_parts), -1, len(x))
    noise = _noise(alpha, sigma, jnp.trace(of_parts, axis1=1, axis2=2).max())

    def of_frequency(of_parts: Array, apart: Array) -> Array:
        factor = inverse_factor(_with_noise(alpha**2 * of_parts, noise))
        return alpha * product(of_parts, solve(factor, apart))

    found = jax.vmap(of_frequency)(of_parts, apart).reshape(height, width, 2, channels, -1)
    found = _transformed(jax.lax.complex(found[:, :, 0], found[:, :, 1]), 1).real
    return of_pixel[None, None, None] + jnp.moveaxis(found, -1, 0) / (height * width)


def _transformed(images: Num[Array, "h w c k"], sign: int) -> Complex[Array, "h w c k"]:
    """Sum over places of exp(sign i frequency place), over rows and columns; by products.

    XLA's FFT on a CPU may wait for ever, as LAPACK's batches, see `elsjax.analytic.factor`.
    """
    rows, columns = (
        np.exp(sign * 2j * np.pi * np.outer(np.arange(side), np.arange(side)) / side)
        for side in images.shape[:2]
    )
    dtype = jax.lax.complex(images.real, images.real).dtype
    return jnp.einsum(
        "ah,bw,hwck->abck",
        *(jnp.asarray(rows, dtype), jnp.asarray(columns, dtype), images.astype(dtype)),
        precision=jax.lax.Precision.HIGHEST,
    )


def _translated(
    mean: Float[Array, " d"], covariance: Float[Array, "d d"], image_shape: ImageShape
) -> tuple[Float[Array, " c"], Float[Array, "h w c c"]]:
    """Mean of all translates, and their covariance of any pixel with that at each offset to it."""
    height, width, channels = image_shape
    mean = mean.reshape(height, width, channels)
    of_pixel = mean.mean((0, 1))
    apart = mean - of_pixel[None, None]
    from_each = covariance.reshape(height, width, channels, height, width, channels)

    def add(total: Array, place: Array) -> tuple[Array, None]:
        row, column = place // width, place % width
        piece = from_each[row, column] + apart[row, column][:, None, None, None] * apart[None]
        return total + jnp.roll(jnp.roll(piece, -row, 1), -column, 2), None

    total = jnp.zeros((channels, *image_shape), mean.dtype)
    total, _ = jax.lax.scan(add, total, jnp.arange(height * width))
    return of_pixel, jnp.moveaxis(total, 0, 2) / (height * width)


def _of_tiles(
    tiles: Tiles,
    mean: Float[Array, " d"],
    covariance: Float[Array, "d d"],
    translated: tuple[Array, Array] | None,
    x: Float[Array, "b h w c"],
    alpha: Float[Array, ""],
    sigma: Float[Array, ""],
) -> Float[Array, "n q t b c"]:
    """`estimate` of the pixels of tiles; of translates of images if their moments are given."""
    height, width, channels = x.shape[1:]

    def entries(rows: Array, columns: Array, shift: Array) -> Array:
        """Places of the union's entries in an image, [u c]."""
        pixels = (rows + shift[0]) % height * width + (columns + shift[1]) % width
        return _entries(pixels, channels)

    def of_tile(tile: tuple[Array, ...]) -> Array:
        rows, columns, seen, own, owned, targets = tile
        if translated is None:
            places = jax.vmap(lambda key: entries(rows, columns, key))(jnp.asarray(tiles.keys))
            of_patches, spread = _averaged(mean, covariance, places)
        else:
            of_patches, spread = _by_offsets(*translated, rows, columns)
        seen, owned = (jnp.repeat(mask, channels, axis=-1) for mask in (seen, owned))
        centres = _entries(targets, channels)
        filters = _filters(
            jnp.where(jnp.outer(seen, seen), spread, 0),
            seen,
            _entries(own, channels),
            owned,
            centres,
            tiles.num_shared * channels,
            alpha,
            sigma,
        )
        start = of_patches[centres] - alpha * product(of_patches[None], filters)[0]

        def of_query(query: Array) -> Array:
            windows = x.reshape(len(x), -1)[:, entries(rows, columns, query)]
            return start[None] + product(windows, filters)

        of_window = len(x) * len(filters) * x.dtype.itemsize
        return _mapped(of_query, jnp.asarray(tiles.queries), of_window)

    arrays = (tiles.rows, tiles.columns, tiles.seen, tiles.own, tiles.owned, tiles.targets)
    found = _mapped(of_tile, tuple(map(jnp.asarray, arrays)), _bytes(tiles, channels))
    found = found.reshape(*found.shape[:3], -1, channels)  # [n, q, b, t, c]
    return jnp.moveaxis(found, 3, 2)


def _averaged(
    mean: Float[Array, " d"], covariance: Float[Array, "d d"], places: Int[Array, "s k"]
) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """Mean and covariance of pieces of images: those at each of s places count alike."""
    means = mean[places]
    if len(places) == 1:
        return means[0], covariance[places[0][:, None], places[0][None]]
    of_all = means.mean(0)
    apart = means - of_all[None]

    def add(total: Array, at: Array) -> tuple[Array, None]:
        return total + covariance[at[:, None], at[None]], None

    total, _ = jax.lax.scan(add, product(apart.T, apart), places)
    return of_all, total / len(places)


def _by_offsets(
    of_pixel: Float[Array, " c"],
    by_offset: Float[Array, "h w c c"],
    rows: Int[Array, " u"],
    columns: Int[Array, " u"],
) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """Mean and covariance of the pixels at these places of all translates of images; k = u c."""
    height, width, channels, _ = by_offset.shape
    down, right = ((axis[None] - axis[:, None]) for axis in (rows, columns))
    pairs = by_offset[down % height, right % width].swapaxes(1, 2)
    size = len(rows) * channels
    return jnp.tile(of_pixel, len(rows)), pairs.reshape(size, size)


def _filters(
    spread: Float[Array, "k k"],
    seen: Bool[Array, " k"],
    own: Int[Array, "t r"],
    owned: Bool[Array, "t r"],
    centres: Int[Array, " m"],
    num_shared: int,
    alpha: Float[Array, ""],
    sigma: Float[Array, ""],
) -> Float[Array, "k m"]:
    """Filters g of each channel of each pixel of a tile, m = t c; 0 outside its window.

    Args:
      spread: covariance of the entries of the union of windows, the shared ones first; 0 for those
        not seen.
      seen: which are.
      own: places in the rest that each pixel sees.
      owned: which of these count.
      centres: the entries to estimate.
      num_shared: how many entries are shared.
      alpha: signal level.
      sigma: noise level.

    Returns:
      The filters, [k, m].
    """
    noise = _noise(alpha, sigma, jnp.trace(spread))
    matrix = _with_noise(alpha**2 * spread, jnp.where(seen, noise, 1))
    right = alpha * spread[:, centres]
    factor = inverse_factor(matrix[:num_shared, :num_shared])
    solved = product(factor, right[:num_shared])
    if own.shape[1] == 0:
        return product(factor.T, solved)
    across = product(factor, matrix[:num_shared, num_shared:])
    rest = matrix[num_shared:, num_shared:] - product(across.T, across)
    right = right[num_shared:] - product(across.T, solved)

    def of_pixel(own: Array, owned: Array, right: Array) -> Array:
        matrix = jnp.where(jnp.outer(owned, owned), rest[own[:, None], own[None]], 0)
        factor = inverse_factor(_with_noise(matrix, jnp.where(owned, 0, 1)))
        found = solve(factor, jnp.where(owned[:, None], right[own], 0))
        return jnp.zeros_like(right).at[own].add(found)

    right = jnp.moveaxis(right.reshape(len(rest), len(own), -1), 1, 0)
    of_rest = jnp.moveaxis(jax.vmap(of_pixel)(own, owned, right), 0, 1).reshape(len(rest), -1)
    return jnp.concatenate([product(factor.T, solved - product(across, of_rest)), of_rest])


def _noise(alpha: Array, sigma: Array, trace: Array) -> Array:
    """sigma²; at least the level below which a covariance of that trace is rounding."""
    rounding = max(4 * float(jnp.finfo(trace.dtype).eps), 1e-11)
    return jnp.maximum(sigma**2, rounding * jnp.maximum(alpha**2 * trace, 1))


def _with_noise(matrix: Array, noise: Array) -> Array:
    return matrix + jnp.diag(jnp.broadcast_to(noise, len(matrix)))


def _entries(places: Int[Array, "*n u"], channels: int) -> Int[Array, "*n k"]:
    """Places of the entries of pixels, pixel by pixel; k = u c."""
    offsets = jnp.arange(channels, dtype=places.dtype)
    offsets = jnp.tile(offsets, places.shape[-1])
    return jnp.repeat(places * channels, channels, axis=-1) + jnp.broadcast_to(
        offsets, (*places.shape[:-1], len(offsets))
    )


def _bytes(tiles: Tiles, channels: int) -> int:
    """Bytes that the matrices of a tile take."""
    _, size, own = tiles.own.shape
    entries = (tiles.rows.shape[1] * channels) ** 2 + size * (own * channels) ** 2
    return 4 * entries * np.dtype(jnp.result_type(float)).itemsize


def _batch(count: int, each: int) -> int:
    """How many of a number of things of some bytes are looked at at once: a part of them."""
    most = max(1, _AT_ONCE // each)
    return max(batch for batch in range(1, count + 1) if count % batch == 0 and batch <= most)


def _mapped(function: Callable[[Any], Array], arrays: Any, each: int) -> Array:
    """A function of each of the leading entries of arrays, as many at once as memory allows."""
    count = len(jax.tree.leaves(arrays)[0])
    batch = _batch(count, each)
    return jax.lax.map(function, arrays, batch_size=batch if batch > 1 else None)
