"""An index of training patches, and how the posterior mean is looked up in it.

A patch index is clusters of similar patches, built once for a data set and a window size and kept
in a cache. The search opens the clusters that matter to a query and takes the others for Gaussians,
so that a posterior mean costs a small part of what all patches cost, at an error that is estimated.

In reading order: `clusters` (the arrays, and how they lie on devices), `build` (how they are found,
in NumPy), `cache`, `gaussians` (what stands in for a cluster), `problem` (what a search is given),
`packing` (requests of queries for clusters, in units and slots), `openings` (clusters opened, patch
by patch), `search` (thresholds and the estimate of the error).
"""

from elsjax.posterior.index.cache import load_or_build
from elsjax.posterior.index.clusters import (
    Patches,
    PatchIndex,
    lay_out,
    partition_specs,
    spread,
)
from elsjax.posterior.index.search import MOST_BYTES, pays, posterior_mean

__all__ = [
    "MOST_BYTES",
    "PatchIndex",
    "Patches",
    "lay_out",
    "load_or_build",
    "partition_specs",
    "pays",
    "posterior_mean",
    "spread",
]
