"""Excess limbs: trousers with three legs, as in Fig. 5c of Kamb & Ganguli (2025), counted.

An image is divided at half of its maximum. It has an excess of limbs where at least 3 rows of its
lowest third have 3 or more runs of foreground. Meant for the trousers of FashionMNIST, class 1.
"""

import math
import statistics

import numpy as np
from jaxtyping import ArrayLike, Bool, Real

from elsjax import checks
from elsjax.pixels import to_float

_RUNS = 3
_ROWS = 3


def excess_limbs(images: Real[ArrayLike, "b h w c"]) -> Bool[np.ndarray, " b"]:
    """Whether each image has more than two legs.

    Foreground is what is brighter than half of the image's maximum, where -1 is black: intensity is
    (pixel + 1) / 2, the mean over the channels.

    Args:
      images: [B, H, W, C], uint8 or floating point in units of [-1, 1], of 9 rows or more.

    Returns:
      Booleans, [B].

    Raises:
      ValueError: if images is not as described.
    """
    images = checks.clean_images("images", images)
    height = images.shape[1]
    if height < 3 * _ROWS:
        raise ValueError(
            f"images has shape {list(images.shape)}; expected at least {3 * _ROWS} rows: an excess "
            f"needs {_ROWS} in the lowest third"
        )
    if images.dtype != np.uint8:
        checks.warn_of_no_black("images", float(images.min()), float(images.max()))
    intensity = (to_float(images, np.float64).mean(axis=3) + 1) / 2
    foreground = intensity > intensity.max(axis=(1, 2), keepdims=True) / 2
    lowest = foreground[:, height - height // 3 :]
    starts = lowest & ~np.pad(lowest, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
    runs = starts.sum(axis=2)
    return (runs >= _RUNS).sum(axis=1) >= _ROWS


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a probability.

    It holds the probabilities p from which the observed share is at most z standard errors
    sqrt(p (1 - p) / trials) away, z the normal quantile of (1 + level) / 2.

    Args:
      successes: how many of the trials succeeded.
      trials: independent trials, at least 1.
      level: probability that the interval holds the true one, about, in (0, 1).

    Returns:
      `(low, high)`, in [0, 1].

    Raises:
      ValueError: if an argument is not as described.
    """
    trials = checks.integer("trials", trials, 1, 2**53)
    successes = checks.integer("successes", successes, 0, trials)
    level = checks.in_range("level", level, 0, 1, open_ends=True)
    # Its square alone counts; below 1/2 it is exact for levels next to 1.
    z = statistics.NormalDist().inv_cdf((1 - level) / 2)
    share, squared = successes / trials, z * z / trials
    centre = (share + squared / 2) / (1 + squared)
    reach = math.sqrt(squared * (share * (1 - share) + squared / 4)) / (1 + squared)
    low = max(centre - reach, 0.0) if successes > 0 else 0.0
    high = min(centre + reach, 1.0) if successes < trials else 1.0
    return low, high
