"""What a search is given: queries, and the clusters and noise level they are asked at.

Axis names: r queries, k clusters, d entries of a patch, m principal axes, f features.
"""

import dataclasses
from typing import NamedTuple, TypeVar

from jax import lax
from jaxtyping import Array, Float, Int

from elsjax import parallel
from elsjax.posterior import softmax
from elsjax.posterior.index.clusters import Patches, PatchIndex
from elsjax.posterior.index.gaussians import StandIns
from elsjax.posterior.softmax import PosteriorState

_Tree = TypeVar("_Tree")


class Queries(NamedTuple):
    """Windows of noisy images.

    Attributes:
      windows: their entries, less alpha times the shift.
      features: in which the weights of stand-ins are log-linear (`gaussians.features`).
      coordinates: along the principal axes.
      log_evidence: logarithm of the weight of all clusters, as their stand-ins estimate it; a
        share of the weight is relative to this.
      first_threshold: the share from which on clusters are opened first.
    """

    windows: Float[Array, "r d"]
    features: Float[Array, "r f"]
    coordinates: Float[Array, "r m"]
    log_evidence: Float[Array, " r"]
    first_threshold: Float[Array, " r"]


class Block(NamedTuple):
    """Clusters next to each other, so many that their estimates for all queries fit into memory."""

    first: Int[Array, ""]
    size: int

    def of(self, array: Float[Array, "k x"]) -> Float[Array, "b x"]:
        """The rows of these clusters."""
        return lax.dynamic_slice_in_dim(array, self.first, self.size)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Clusters and a noise level; on a mesh, a device's own clusters.

    Attributes:
      alpha: signal level.
      sigma: noise level.
      shift: patch that counts as 0 in the arithmetic.
      index: the clusters.
      patches: their patches.
      stand_ins: their Gaussians, integrated at this noise level.
      sharded: the clusters of all devices along "data" count; inside `jax.shard_map`.
    """

    alpha: Float[Array, ""]
    sigma: Float[Array, ""]
    shift: Float[Array, " d"]
    index: PatchIndex
    patches: Patches
    stand_ins: StandIns
    sharded: bool

    @property
    def num_clusters(self) -> int:
        """Number of clusters on this device."""
        return len(self.index.centres)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.index.slopes.shape[2]

    @property
    def num_shards(self) -> int:
        """Number of devices that clusters are spread over."""
        return lax.axis_size(parallel.DATA) if self.sharded else 1

    def varying_over_samples(self, tree: _Tree) -> _Tree:
        """Constants, from here on different on devices with different noisy images."""
        return lax.pcast(tree, parallel.SAMPLE, to="varying") if self.sharded else tree

    def varying(self, tree: _Tree) -> _Tree:
        """Constants, from here on different on every device."""
        tree = self.varying_over_samples(tree)
        return lax.pcast(tree, parallel.DATA, to="varying") if self.sharded else tree

    def sum_over_shards(self, tree: _Tree) -> _Tree:
        """Sums over the clusters of all devices from those of each."""
        return lax.psum(tree, parallel.DATA) if self.sharded else tree

    def gather_over_shards(self, array: Float[Array, "r x"]) -> Float[Array, "r y"]:
        """What there is of each query on all devices, side by side."""
        if not self.sharded:
            return array
        return lax.all_gather(array, parallel.DATA, axis=1, tiled=True, to="invarying")

    def merge_over_shards(self, state: PosteriorState) -> PosteriorState:
        """The state of the clusters of all devices."""
        return softmax.merge_over(state, parallel.DATA) if self.sharded else state
