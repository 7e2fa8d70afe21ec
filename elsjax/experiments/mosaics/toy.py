"""The toy of Fig. 3: how many images are locally consistent with two training images.

The training images are all black and all white, windows are 3 x 3 and wrap around. Then an image is
locally consistent where every pixel is that of the majority of its window (Kamb & Ganguli 2025).
Their number grows exponentially with the number of pixels.

A row is a number whose bits are its pixels. Three rows tell whether the one between is consistent.
So images are closed walks on pairs of neighbouring rows, from (a, b) to (b, c), and their number is
the trace of a power of the transfer matrix T: 1 for each such step.
"""

import functools
import math

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import eigs

from elsjax import checks

# The widest strip: there are 4^width pairs of rows.
_WIDEST = 8

# A pair of rows follows on at most 2^8 others; sums of so many numbers below this fit int64.
_MODULUS = 2**54

# Columns of a power that are computed at once.
_COLUMNS = 512

# ARPACK needs some rows more than it is asked for eigenvalues.
_DENSE = 32


def consistent_images(height: int, width: int) -> int:
    """Number of locally consistent images whose borders wrap around, exactly.

    It takes seconds for 8 x 8, and time in proportion to the square of the longer side.

    Args:
      height: of the images, at least 3.
      width: of the images, at least 3; the shorter side is at most 8.

    Returns:
      How many of the 2^(height width) images of black and white pixels.

    Raises:
      ValueError: if height or width is not as described.
    """
    height = checks.integer("height", height, 3, 10_000)
    width = checks.integer("width", width, 3, 10_000)
    if min(height, width) > _WIDEST:
        raise ValueError(
            f"height={height} and width={width}: one of them must be at most {_WIDEST}"
        )
    length, width = max(height, width), min(height, width)
    transfer = _transfer(width)
    # A trace is the sum of the eigenvalues' powers.
    bound = math.log2(transfer.shape[0]) + length * math.log2(_largest_eigenvalue(width)) + 1
    count, product, modulus = 0, 1, _MODULUS
    # By its remainders for moduli without a common factor, whose product exceeds it.
    while math.log2(product) <= bound:
        if math.gcd(product, modulus) == 1:
            remainder = _trace(transfer, length, modulus)
            count += product * ((remainder - count) * pow(product, -1, modulus) % modulus)
            product *= modulus
        modulus -= 1
    return count


def entropy_per_pixel(width: int) -> float:
    """How fast the number of consistent images grows with the length of a periodic strip.

        log(number of images [length, width]) / (length width),   length -> infinity

    Args:
      width: of the strip, from 3 to 8.

    Returns:
      In nats per pixel: at most log 2, which is that of all images.

    Raises:
      ValueError: if width is not as described.
    """
    width = checks.integer("width", width, 3, _WIDEST)
    return math.log(_largest_eigenvalue(width)) / width


@functools.cache
def _transfer(width: int) -> sparse.csr_array:
    """The transfer matrix of the pairs of rows that closed walks pass through."""
    num_rows = 2**width
    pixels = np.arange(num_rows)[:, None] >> np.arange(width) & 1
    sums = pixels + np.roll(pixels, 1, axis=1) + np.roll(pixels, -1, axis=1)
    starts, ends = [], []
    for above in range(num_rows):
        white = (sums[above] + sums)[:, None] + sums > 4
        row, below = np.nonzero((white == pixels[:, None]).all(axis=-1))
        starts.append(above * num_rows + row)
        ends.append(row * num_rows + below)
    start, end = np.concatenate(starts), np.concatenate(ends)
    shape = (num_rows**2, num_rows**2)
    every = sparse.csr_array((np.ones(start.size, np.int64), (start, end)), shape)
    component = _components(every)
    closed = (np.bincount(component)[component] > 1) | (every.diagonal() > 0)
    return every[closed][:, closed]


@functools.cache
def _largest_eigenvalue(width: int) -> float:
    """That of the transfer matrix."""
    transfer = _transfer(width).astype(float)
    component, largest = _components(transfer), 0.0
    # Within a component it is simple; that of them all need not be.
    for number in range(component.max() + 1):
        members = np.flatnonzero(component == number)
        block = transfer[members][:, members]
        if len(members) > _DENSE:
            start = np.ones(len(members))
            values = eigs(block, k=1, which="LR", v0=start, return_eigenvectors=False)
        else:
            values = np.linalg.eigvals(block.toarray())
        largest = max(largest, float(values.real.max()))
    return largest


def _components(matrix: sparse.csr_array) -> np.ndarray:
    """Number of the strongly connected component of each state."""
    return csgraph.connected_components(matrix, connection="strong")[1]


def _trace(matrix: sparse.csr_array, power: int, modulus: int) -> int:
    """Trace of a power of a matrix of integers, modulo a number."""
    size, total = matrix.shape[0], 0
    for first in range(0, size, _COLUMNS):
        numbers = np.arange(first, min(first + _COLUMNS, size))
        columns = np.zeros((size, len(numbers)), np.int64)
        columns[numbers, numbers - first] = 1
        for _ in range(power):
            columns = matrix @ columns % modulus
        total += int(columns[numbers, numbers - first].sum())
    return total % modulus
