"""An index of training patches, and how the posterior mean is looked up in it."""

from elsjax.posterior.index.clusters import (
    Patches,
    PatchIndex,
    lay_out,
    load_index,
    partition_specs,
    spread,
)
from elsjax.posterior.index.search import MOST_BYTES, pays, posterior_mean


def load_or_build(images, part, progress=None):
    return load_index(images, part)
