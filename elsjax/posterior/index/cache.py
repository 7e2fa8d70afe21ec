"""Indices in the user's cache directory, so that each is built once."""

import dataclasses
import hashlib
import json

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from elsjax import storage
from elsjax.posterior.dictionaries import WindowPart
from elsjax.posterior.index import build
from elsjax.posterior.index.clusters import PatchIndex


def load_or_build(
    images: UInt8[np.ndarray, "n h w c"],
    part: WindowPart,
    *,
    progress: build.Progress | None = None,
) -> PatchIndex:
    """The index of a part, from the cache of "indices" or built and left there.

    A file's name is a digest of the images, the part and the settings of `build`. One that is
    damaged is built again, and one that cannot be written is used all the same, with a warning.

    Args:
      images: training images.
      part: a part without tied axes.
      progress: called as `progress(done, total)` while the index is built.

    Returns:
      The index.
    """
    name = _digest(images, part)
    cached = storage.read_cached("indices", name)
    if cached is not None:
        return PatchIndex(**{key: jnp.asarray(array) for key, array in cached.items()})
    index = build.build_index(images, part, progress=progress)
    arrays = {f.name: np.asarray(getattr(index, f.name)) for f in dataclasses.fields(index)}
    storage.keep("indices", name, arrays)
    return index


def _digest(images: UInt8[np.ndarray, "n h w c"], part: WindowPart) -> str:
    """Names an index by all that determines it."""
    how = (build.CLUSTER_SIZE, build.NUM_AXES, build.VERSION)
    settings = json.dumps([repr(part), images.shape, *how])
    return hashlib.sha256(settings.encode() + np.ascontiguousarray(images).tobytes()).hexdigest()
