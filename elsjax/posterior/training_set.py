"""The training images as machines keep them: of 8 bits, sorted by class, spread over a mesh."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from elsjax import parallel
from elsjax.pixels import as_pixels
from elsjax.posterior.methods import fused


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Training images, sorted by class.

    Attributes:
      pixels: uint8, or floating point in [-1, 1], [N, H, W, C]. On a mesh they are interleaved, so
        that each device along "data" has an equal share of every range; or replicated.
      numbers: the caller's number of each image, [N], rising within a class.
      mean_pixel: mean over images and places, [C], in [-1, 1].
      largest_norm: bound on the norm of a pixel less the mean pixel.
      num_images: N, without what fills up the shares.
      classes: (label, start, stop) of each class, whose images are those from start to stop.
      mesh: devices that share the images; None for one.
      replicated: every device has all images.
      platform: of the devices.
      fuses: whether the images and the devices are those of the fused kernel.
    """

    pixels: Num[Array, "n h w c"]
    numbers: Int[Array, " n"]
    mean_pixel: Float[Array, " c"]
    largest_norm: Float[Array, ""]
    num_images: int = dataclasses.field(metadata={"static": True})
    classes: tuple[tuple[int, int, int], ...] = dataclasses.field(metadata={"static": True})
    mesh: jax.sharding.Mesh | None = dataclasses.field(metadata={"static": True})
    replicated: bool = dataclasses.field(metadata={"static": True})
    platform: str = dataclasses.field(metadata={"static": True})
    fuses: bool = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(
        cls,
        images: np.ndarray,
        labels: np.ndarray | None,
        mesh: jax.sharding.Mesh | None,
    ) -> Self:
        """Puts images where they are needed.

        Args:
          images: uint8 or floating point in [-1, 1], [N, H, W, C].
          labels: class of each, [N]; None for none.
          mesh: devices to share them; None for one.

        Returns:
          The training set; its pixels are uint8 where that loses nothing but rounding.
        """
        pixels, numbers = as_pixels(images), np.arange(len(images), dtype=np.int32)
        classes: tuple[tuple[int, int, int], ...] = ()
        if labels is not None:
            numbers = np.argsort(labels, kind="stable").astype(np.int32)
            pixels, classes = pixels[numbers], _ranges(labels[numbers])
        return cls._placed(pixels, numbers, classes, mesh, replicated=False)

    @classmethod
    def _placed(
        cls,
        pixels: np.ndarray,
        numbers: np.ndarray,
        classes: tuple[tuple[int, int, int], ...],
        mesh: jax.sharding.Mesh | None,
        *,
        replicated: bool,
    ) -> Self:
        mean = pixels.mean(axis=(0, 1, 2), dtype=np.float64)
        largest = 1.0
        if pixels.dtype == np.uint8:
            mean = mean / 127.5 - 1
        else:
            largest = float(np.abs(pixels).max())
        dtype = jnp.result_type(float)

        def place(array: np.ndarray) -> Array:
            if mesh is None:
                return jnp.asarray(array)
            if replicated:
                return parallel.everywhere(array, mesh)
            array = parallel.interleave(array, mesh.shape[parallel.DATA])
            return jax.device_put(array, jax.NamedSharding(mesh, jax.P(parallel.DATA)))

        placed = place(pixels)
        device = _device(placed, mesh)
        return cls(
            pixels=placed,
            numbers=place(numbers),
            mean_pixel=jnp.asarray(mean, dtype),
            largest_norm=jnp.asarray(np.linalg.norm(largest + np.abs(mean)), dtype),
            num_images=len(pixels),
            classes=classes,
            mesh=mesh,
            replicated=replicated,
            platform=device.platform,
            fuses=pixels.dtype == np.uint8 and fused.runs_on(device),
        )

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes, ascending."""
        return tuple(label for label, _, _ in self.classes)

    def bounds(self, label: int | None) -> tuple[int, int]:
        """The range of the images of a class; of all for None."""
        if label is None:
            return 0, self.num_images
        return next((start, stop) for one, start, stop in self.classes if one == label)

    def ranges(self, label: Int[Array, "*b"]) -> Int[Array, "*b 2"]:
        """The range of each label's images: none, so that the mean is NaN, if it is not known."""
        known = jnp.asarray(self.classes, jnp.int32)
        place = jnp.minimum(jnp.searchsorted(known[:, 0], label), len(known) - 1)
        return jnp.where((known[place, 0] == label)[..., None], known[place, 1:], 0)

    def partition_specs(self) -> Self:
        """How its arrays lie on the mesh, for `jax.shard_map`."""
        everywhere = jax.P()
        images = everywhere if self.replicated else jax.P(parallel.DATA)
        specs = jax.tree.map(lambda _: everywhere, self)
        return dataclasses.replace(specs, pixels=images, numbers=images)

    def everywhere(self) -> Self:
        """The same images, all of them on every device of the mesh."""
        if self.mesh is None or self.replicated:
            return self
        return self._placed(*self.on_host(), self.classes, self.mesh, replicated=True)

    def on(self, mesh: jax.sharding.Mesh) -> Self:
        """The same images on a mesh, a share of them on each device along "data"."""
        if mesh == self.mesh and not self.replicated:
            return self
        return self._placed(*self.on_host(), self.classes, mesh, replicated=False)

    def without(self, numbers: np.ndarray) -> Self:
        """Less the images of these numbers; the others keep theirs.

        Raises:
          ValueError: if there is no image of such a number, or none would be left.
        """
        pixels, own = self.on_host()
        missing = numbers[~np.isin(numbers, own)]
        if len(missing):
            raise ValueError(f"images={missing[0]} is the number of no training image")
        kept = ~np.isin(own, numbers)
        if not kept.any():
            raise ValueError(f"images holds the numbers of all {len(own)} training images")
        labels = np.repeat(
            np.array(self.labels, np.int64), [stop - start for _, start, stop in self.classes]
        )
        classes = _ranges(labels[kept]) if self.classes else ()
        return self._placed(pixels[kept], own[kept], classes, self.mesh, replicated=self.replicated)

    def on_host(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and numbers, by classes, not interleaved."""
        arrays = (self.pixels, self.numbers)
        if self.mesh is None:
            return tuple(map(np.asarray, arrays))  # type: ignore[return-value]
        # An array may be spread over the devices of other processes too.
        copy = jax.jit(lambda *arrays: arrays, out_shardings=jax.NamedSharding(self.mesh, jax.P()))
        pixels, numbers = (np.asarray(array.addressable_data(0)) for array in copy(*arrays))
        if self.replicated:
            return pixels, numbers
        shards = self.mesh.shape[parallel.DATA]
        order = np.arange(len(pixels)).reshape(shards, -1).T.ravel()[: self.num_images]
        return pixels[order], numbers[order]


def _device(array: Array, mesh: jax.sharding.Mesh | None) -> jax.Device:
    """One of the devices that an array lies on."""
    if mesh is not None:
        return mesh.devices.flat[0]
    if isinstance(array, jax.core.Tracer):  # of a machine that is made while tracing
        return jax.devices()[0]
    return next(iter(array.devices()))


def _ranges(labels: np.ndarray) -> tuple[tuple[int, int, int], ...]:
    """(label, start, stop) of each class of sorted labels."""
    classes, counts = np.unique(labels, return_counts=True)
    stops = np.cumsum(counts)
    return tuple(
        (int(label), int(stop - count), int(stop))
        for label, count, stop in zip(classes, counts, stops, strict=True)
    )
