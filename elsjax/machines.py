"""The score machines: a dictionary of training patches, a noise schedule and a window schedule."""

import copy
import functools
import math
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from elsjax import checks, parallel
from elsjax.pixels import as_pixels
from elsjax.posterior import dense, fused
from elsjax.posterior.dictionaries import Dictionary, Kind, Part, WindowPart
from elsjax.posterior.index import search as near_far
from elsjax.posterior.index.clusters import (
    Patches,
    PatchIndex,
    lay_out,
    load_index,
    partition_specs,
    spread,
)
from elsjax.process.denoisers import Denoiser
from elsjax.process.schedules import CosineSchedule, Schedule
from elsjax.process.windows import WindowSchedule

_LEAVES = ("_images", "_mean_pixel", "_indices", "_patches")


@jax.tree_util.register_pytree_node_class
class ScoreMachine(Denoiser):
    """The exact posterior mean E[x_0 | x_t] under locality and equivariance constraints.

        E[x_0(i) | x_t] = sum_p w_p p(centre),   w = softmax_p(-|x_t[Ω_i] - alpha p|² / 2 sigma²)

    over the dictionary of training patches p that the kind of machine allows at pixel i (Kamb &
    Ganguli 2025, section 3). Nothing is trained. The result does not depend on block size, batch
    neighbours or the order of the images, beyond rounding. Computations run in float64 where
    `jax_enable_x64` is set, else in float32. At t = 0, where sigma = 0, the limit is taken: the
    nearest patch.

    A machine is a pytree, so it can be an argument of a jitted function; there, t must be a
    Python number if the window depends on it.

    Args:
      kind: "is" (ideal), "es" (equivariant), "ls" (local), "els" (equivariant local) or "bbels"
        (boundary-broken ELS); see `elsjax.posterior.dictionaries`.
      images: training images, [N, H, W, C], uint8 or floating point in [-1, 1]. Kept as uint8
        where that loses nothing but rounding, and scaled block by block on the device.
      labels: class of each training image, integers [N]; needed to condition on a label.
      schedule: noise schedule.
      window: odd side P of the window, or a `WindowSchedule` for P(t); None for "is" and "es".
      wrap_patches: "els" only: training patches wrap around the border.
      memory_budget: bytes that one evaluation may use beside the images and its own input and
        output; decides how many training images make a block. None for 256 MiB on an accelerator,
        and on a CPU, about its cache, for 24 MiB, which its devices share.
      block_size: number of training images per block, instead of the budget's choice.
      tolerance: None for exact posterior means. Else the error per pixel, in units of [-1, 1], up
        to which whole datasets are looked up through an index of their patches, wherever that is
        faster (`elsjax.posterior.index`); `denoise_with_error` gives the estimates. Needs 8-bit
        images; t and label must then be values on the host. An index is built when first needed, in
        minutes for a whole dataset, and kept in the user's cache directory; its patches are laid
        out in memory, up to 8 GiB for all windows and labels together, and a float for each patch.
      mesh: devices to share the work, as `elsjax.make_mesh` gives them; each uses memory_budget.
        None for one device. With a tolerance each device holds all images, and a share of the
        index; then, where "data" is no power of two, results differ within the tolerance.

    Raises:
      ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        kind: Kind,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        schedule: Schedule | None = None,
        window: int | WindowSchedule | None = None,
        wrap_patches: bool = False,
        memory_budget: int | None = None,
        block_size: int | None = None,
        tolerance: float | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        images = checks.training_images("images", images)
        if memory_budget is not None:
            memory_budget = checks.positive_int("memory_budget", memory_budget)
        if block_size is not None:
            block_size = checks.positive_int("block_size", block_size)
        if mesh is not None:
            parallel.check_mesh(mesh)
        if tolerance is not None:
            tolerance = checks.in_range("tolerance", tolerance, 0, 1, open_ends=True)
        self.kind: Kind = kind
        height, width, channels = images.shape[1:]
        self.image_shape = (height, width, channels)
        self.schedule = CosineSchedule() if schedule is None else schedule
        checks.instance("schedule", self.schedule, Schedule, "CosineSchedule()")
        self.wrap_patches = wrap_patches
        self.window = self._checked_window(window)
        self.memory_budget = memory_budget
        self.block_size = block_size
        self.tolerance = tolerance
        self.mesh = mesh
        self._indices: dict[str, PatchIndex] = {}
        self._patches: dict[str, Patches] = {}
        self._class_ranges: dict[int, tuple[int, int]] | None = None
        pixels = as_pixels(images)
        if tolerance is not None and pixels.dtype != np.uint8:
            raise ValueError(
                f"tolerance={tolerance} needs images of 8 bits, but images has values between"
            )
        if labels is not None:
            labels = checks.class_labels("labels", labels, len(images))
            pixels, self._class_ranges = _sorted_by_class(pixels, labels)
        self._num_images = len(images)
        self._mean_pixel = jnp.asarray(_mean_pixel(pixels), jnp.result_type(float))
        if mesh is None:
            self._images = jnp.asarray(pixels)
        elif tolerance is not None:  # patches are looked up in any image
            self._images = jax.device_put(pixels, jax.NamedSharding(mesh, jax.P()))
        else:
            dealt = parallel.deal(pixels, mesh.shape[parallel.DATA])
            self._images = jax.device_put(dealt, jax.NamedSharding(mesh, jax.P(parallel.DATA)))

    @property
    def num_images(self) -> int:
        """Number of training images."""
        return self._num_images

    @property
    def _device(self) -> jax.Device:
        """Where the machine computes, so far as that is known: one of the devices."""
        if self.mesh is not None:
            return self.mesh.devices.flat[0]
        if isinstance(self._images, jax.core.Tracer):
            return jax.devices()[0]
        return next(iter(self._images.devices()))

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that can be conditioned on, ascending; empty without labelled data."""
        return tuple(self._class_ranges or ())

    def with_window(self, window: int | WindowSchedule) -> Self:
        """The same machine, and the same images, seen through another window.

        Args:
          window: odd side P of the window, or a `WindowSchedule` for P(t).

        Returns:
          A machine that shares the images.

        Raises:
          ValueError: if the window does not suit the kind.
        """
        machine = copy.copy(self)
        machine.window = self._checked_window(window)
        return machine

    def _checked_window(self, window: int | WindowSchedule | None) -> int | WindowSchedule | None:
        """The window; raises ValueError if it does not suit the kind and the images."""
        if isinstance(window, WindowSchedule):
            for side in window.windows:
                Dictionary(self.kind, self.image_shape, side, self.wrap_patches)
            return window
        return Dictionary(self.kind, self.image_shape, window, self.wrap_patches).window

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]:
        """Training images, their mean pixel and indices are leaves; everything else is static."""
        static = {key: v for key, v in vars(self).items() if key not in _LEAVES}
        if self._class_ranges is not None:
            static["_class_ranges"] = tuple(self._class_ranges.items())
        return tuple(getattr(self, name) for name in _LEAVES), tuple(static.items())

    @classmethod
    def tree_unflatten(cls, static: tuple[tuple[str, Any], ...], leaves: tuple[Any, ...]) -> Self:
        """Inverse of `tree_flatten`."""
        machine = object.__new__(cls)
        vars(machine).update(static, **dict(zip(_LEAVES, leaves, strict=True)))
        if machine._class_ranges is not None:
            machine._class_ranges = dict(machine._class_ranges)
        return machine

    def _check_label(self, label: ArrayLike | None, batch: int) -> None:
        if label is None:
            return
        if self._class_ranges is None:
            raise ValueError(f"label={label} needs labelled data, but labels=None was given")
        values = checks.host_values(label)
        unknown = [] if values is None else sorted(set(values.ravel().tolist()) - set(self.labels))
        if unknown:
            raise ValueError(f"label={unknown[0]} is no class of the data; it has {self.labels}")

    def denoise_with_error(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w"]]:
        """Posterior mean and an estimate of its error; arguments and errors as `denoise`.

        Returns:
          `(x0, error)`: the estimate of x_0, [B, H, W, C], and of its error in each pixel, the
          largest over channels, [B, H, W], in units of x_0; 0 where x0 is exact but for rounding.
        """
        if self.tolerance is None:
            x0 = self.denoise(x, t, label)
            return x0, jnp.zeros(x0.shape[:3], x0.dtype)
        return self._approximate(*self._checked(x, t, label))

    def _approximate(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w"]]:
        """`denoise_with_error`: noisy images of one time and label at once."""
        times = checks.host_values(t)
        labels = None if label is None else checks.host_values(label)
        if times is None or (labels is None) != (label is None):
            raise ValueError(
                f"t and label must be values on the host where tolerance={self.tolerance}: what is "
                "looked up depends on them"
            )
        times = np.broadcast_to(times, x.shape[:1])
        of_each = [None] * len(x) if labels is None else np.broadcast_to(labels, x.shape[:1])
        groups: dict[tuple[float, int | None], list[int]] = {}
        for place, (time, of_one) in enumerate(zip(times, of_each, strict=True)):
            group = (float(time), None if of_one is None else int(of_one))
            groups.setdefault(group, []).append(place)
        x0, error = jnp.zeros_like(x), jnp.zeros(x.shape[:3], x.dtype)
        for (time, of_group), places in groups.items():
            chosen = np.asarray(places)
            mean, estimate = self._approximate_group(x[chosen], time, of_group)
            x0, error = x0.at[chosen].set(mean), error.at[chosen].set(estimate)
        return x0, error

    def _approximate_group(
        self, x: Float[Array, "b h w c"], t: float, label: int | None
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w"]]:
        """`denoise_with_error` at one time and for one label."""
        window = self.window(t) if isinstance(self.window, WindowSchedule) else self.window
        dictionary = Dictionary(self.kind, self.image_shape, window, self.wrap_patches)
        bounds = (0, self.num_images)
        if label is not None and self._class_ranges is not None:
            bounds = self._class_ranges[label]
        count = x.shape[0]
        alpha, sigma = (
            jnp.broadcast_to(jnp.asarray(level, x.dtype), x.shape[:1]) for level in self.schedule(t)
        )
        levels = self.schedule.on_host(t)
        some_noise = levels is not None and bool(levels[1] > 0)
        x, alpha, sigma, ranges = self._place(x, alpha, sigma, jnp.asarray(bounds))
        blocks = tuple(self._blocks(part, x, ranges) for part in dictionary.parts)
        mean, error = _approximate_mean(
            dictionary,
            blocks,
            self.mesh,
            x,
            alpha,
            sigma,
            self._images,
            self._mean_pixel,
            ranges,
            tuple(
                self._index(part, *bounds)
                if some_noise and not cut.fused and near_far.pays(part, bounds[1] - bounds[0])
                else None
                for part, cut in zip(dictionary.parts, blocks, strict=True)
            ),
            jnp.asarray(self.tolerance, x.dtype),
        )
        return mean[:count], error[:count]

    def _index(self, part: WindowPart, start: int, stop: int) -> tuple[PatchIndex, Patches]:
        """The index of the training images [start, stop), spread over the mesh, and its patches."""
        name = f"{part.window[0]}x{part.window[1]} of {start} to {stop}"
        # While tracing, whatever is computed is a tracer, which no later call could use.
        if name not in self._patches and isinstance(self._images[:0], jax.core.Tracer):
            raise ValueError(
                f"no index of {name} yet: denoise once outside of jax.jit, which builds it"
            )
        if name not in self._indices:
            images = self._images.addressable_data(0)
            index = load_index(np.asarray(images[start:stop]), part)
            self._indices[name] = index if self.mesh is None else spread(index, self.mesh)
        if name not in self._patches:
            index = self._indices[name]
            # Patches of other windows make room, the oldest first.
            needed = index.counts.size * part.key_size
            held = sum(patches.pixels.size for patches in self._patches.values())
            while self._patches and held + needed > near_far.MOST_BYTES:
                held -= self._patches.pop(next(iter(self._patches))).pixels.size
            self._patches[name] = lay_out(
                index, self._images, part, start, self._mean_pixel, self.mesh
            )
        return self._indices[name], self._patches[name]

    def _denoise(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        if self.tolerance is not None:
            return self._approximate(x, t, label)[0]
        if not isinstance(self.window, WindowSchedule):
            return self._denoise_at(self.window, x, t, label)
        times = checks.host_values(t)
        if times is None:
            raise ValueError(
                "t must be a value on the host, not traced or on an accelerator: the window "
                "depends on it (pass a Python number, or give the machine one window)"
            )
        windows = [self.window(time) for time in times.ravel()]
        if len(set(windows)) == 1:
            return self._denoise_at(windows[0], x, t, label)
        x0 = jnp.zeros_like(x)
        for window in sorted(set(windows)):
            chosen = np.flatnonzero(np.asarray(windows) == window)
            shared = label is None or jnp.ndim(label) == 0
            of_chosen = label if shared else jnp.asarray(label)[chosen]
            part = self._denoise_at(window, x[chosen], times[chosen], of_chosen)
            x0 = x0.at[chosen].set(part)
        return x0

    def _denoise_at(
        self, window: int | None, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """`denoise` through one window."""
        alpha, sigma = (
            jnp.broadcast_to(jnp.asarray(level, x.dtype), x.shape[:1]) for level in self.schedule(t)
        )
        dictionary = Dictionary(self.kind, self.image_shape, window, self.wrap_patches)
        ranges = None
        if label is not None and self._class_ranges is not None:
            ranges = self._ranges(jnp.asarray(label, jnp.int32))
        count = x.shape[0]
        x, alpha, sigma, ranges = self._place(x, alpha, sigma, ranges)
        blocks = tuple(self._blocks(part, x, ranges) for part in dictionary.parts)
        mean = _posterior_mean(
            dictionary,
            blocks,
            self.mesh,
            self.num_images,
            x,
            alpha,
            sigma,
            self._images,
            self._mean_pixel,
            ranges,
        )
        return mean[:count]

    def _ranges(self, label: Int[Array, "*b"]) -> Int[Array, "*b 2"]:
        """The range of each label's images: none, so that the mean is NaN, if it is not known."""
        ranges = self._class_ranges or {}
        labels, bounds = jnp.asarray(list(ranges), jnp.int32), jnp.asarray(list(ranges.values()))
        place = jnp.minimum(jnp.searchsorted(labels, label), len(labels) - 1)
        return jnp.where((labels[place] == label)[..., None], bounds[place], 0)

    def _place(
        self, x: Array, alpha: Array, sigma: Array, ranges: Array | None
    ) -> tuple[Array, Array, Array, Array | None]:
        """Spreads a batch over the mesh, filled up to what its "sample" axis divides."""
        if self.mesh is None:
            return x, alpha, sigma, ranges
        padding = -x.shape[0] % self.mesh.shape[parallel.SAMPLE]
        spread = jax.NamedSharding(self.mesh, jax.P(parallel.SAMPLE))

        def place(array: Array) -> Array:
            if padding:
                array = jnp.concatenate([array, jnp.repeat(array[-1:], padding, axis=0)])
            return jax.device_put(array, spread)

        if ranges is not None:
            everywhere = jax.NamedSharding(self.mesh, jax.P())
            ranges = place(ranges) if ranges.ndim == 2 else jax.device_put(ranges, everywhere)
        return place(x), place(alpha), place(sigma), ranges

    def _blocks(self, part: Part, x: Float[Array, "b h w c"], ranges: Array | None) -> dense.Blocks:
        """How one device cuts its work."""
        shape = {} if self.mesh is None else self.mesh.shape
        batch = x.shape[0] // shape.get(parallel.SAMPLE, 1)
        if ranges is not None and ranges.ndim == 2:
            batch = 1  # each label for itself
        num_images = -(-self.num_images // shape.get(parallel.DATA, 1))
        budget = self.memory_budget
        if budget is None:
            budget = 2**28
            if self._device.platform == "cpu":  # whose devices share a cache
                budget = max(2**22, 3 * 2**23 // math.prod(shape.values()))
        use_fused = fused.applies(part, self._images, x) and fused.runs_on(self._device)
        blocks = dense.plan_blocks(
            part, batch, num_images, x.dtype.itemsize, budget, use_fused=use_fused
        )
        if self.block_size is None:
            return blocks
        return blocks._replace(images=min(self.block_size, num_images))


@functools.partial(jax.jit, static_argnames=("dictionary", "blocks", "mesh", "num_images"))
def _posterior_mean(
    dictionary: Dictionary,
    blocks: tuple[dense.Blocks, ...],
    mesh: jax.sharding.Mesh | None,
    num_images: int,
    x: Float[Array, "b h w c"],
    alpha: Float[Array, " b"],
    sigma: Float[Array, " b"],
    images: Array,
    mean_pixel: Float[Array, " c"],
    ranges: Int[Array, "2"] | Int[Array, "b 2"] | None,
) -> Float[Array, "b h w c"]:
    """Posterior mean over the images [start, stop) of `ranges`, one for all or one for each x."""
    mean = functools.partial(_mean_of_range, dictionary, blocks, mesh, num_images)
    if mesh is not None:
        samples = jax.P(parallel.SAMPLE)
        of_ranges = samples if ranges is not None and ranges.ndim == 2 else jax.P()
        mean = jax.shard_map(
            mean,
            mesh=mesh,
            in_specs=(samples, samples, samples, jax.P(parallel.DATA), jax.P(), of_ranges),
            out_specs=samples,
        )
    return mean(x, alpha, sigma, images, mean_pixel, ranges)


def _mean_of_range(
    dictionary: Dictionary,
    blocks: tuple[dense.Blocks, ...],
    mesh: jax.sharding.Mesh | None,
    num_images: int,
    x: Float[Array, "b h w c"],
    alpha: Float[Array, " b"],
    sigma: Float[Array, " b"],
    images: Array,
    mean_pixel: Float[Array, " c"],
    ranges: Int[Array, "2"] | Int[Array, "b 2"] | None,
) -> Float[Array, "b h w c"]:
    """What one device computes of `_posterior_mean`."""
    if ranges is not None and ranges.ndim == 2:
        of_range = functools.partial(_mean_of_range, dictionary, blocks, mesh, num_images)

        def one(arguments: tuple[Array, ...]) -> Array:
            x, alpha, sigma, ranges = arguments
            return of_range(x[None], alpha[None], sigma[None], images, mean_pixel, ranges)[0]

        return jax.lax.map(one, (x, alpha, sigma, ranges))
    start: int | Array = 0
    stop: int | Array = num_images
    if ranges is not None:
        start, stop = ranges[0], ranges[1]
    span = stop - start
    if mesh is not None:
        hand, hands = jax.lax.axis_index(parallel.DATA), mesh.shape[parallel.DATA]
        start, stop = parallel.range_of_hand(start, stop, hand, hands)
        span = -(-span // hands)
    parts = dictionary.parts
    painted = [
        dense.posterior_mean(
            part,
            cut,
            x,
            alpha,
            sigma,
            images,
            mean_pixel,
            start,
            stop,
            span=span,
            sharded=mesh is not None,
        )
        for part, cut in zip(parts, blocks, strict=True)
    ]
    return _put_together(parts, painted).reshape(x.shape)


@functools.partial(jax.jit, static_argnames=("dictionary", "blocks", "mesh"))
def _approximate_mean(
    dictionary: Dictionary,
    blocks: tuple[dense.Blocks, ...],
    mesh: jax.sharding.Mesh | None,
    x: Float[Array, "b h w c"],
    alpha: Float[Array, " b"],
    sigma: Float[Array, " b"],
    images: Array,
    mean_pixel: Float[Array, " c"],
    ranges: Int[Array, "2"],
    indices: tuple[tuple[PatchIndex, Patches] | None, ...],
    tolerance: Float[Array, ""],
) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w"]]:
    """Posterior mean and error over the images [start, stop), near-far where there is an index.

    All noisy images are of one noise level.
    """
    approximate = functools.partial(_approximate_share, dictionary, blocks, mesh)
    if mesh is not None:
        samples = jax.P(parallel.SAMPLE)
        of_index = (partition_specs(), jax.P(parallel.DATA))
        of_indices = tuple(None if index is None else of_index for index in indices)
        approximate = jax.shard_map(
            approximate,
            mesh=mesh,
            in_specs=(*[samples] * 3, *[jax.P()] * 3, of_indices, jax.P()),
            out_specs=samples,
        )
    return approximate(x, alpha, sigma, images, mean_pixel, ranges, indices, tolerance)


def _approximate_share(
    dictionary: Dictionary,
    blocks: tuple[dense.Blocks, ...],
    mesh: jax.sharding.Mesh | None,
    x: Float[Array, "b h w c"],
    alpha: Float[Array, " b"],
    sigma: Float[Array, " b"],
    images: Array,
    mean_pixel: Float[Array, " c"],
    ranges: Int[Array, "2"],
    indices: tuple[tuple[PatchIndex, Patches] | None, ...],
    tolerance: Float[Array, ""],
) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w"]]:
    """What one device computes of `_approximate_mean`."""
    sharded = mesh is not None
    hand, hands = (
        (0, 1) if mesh is None else (jax.lax.axis_index(parallel.DATA), mesh.shape[parallel.DATA])
    )
    # Every device has all images, and sums over its share.
    first, last = ranges[0], ranges[1]
    span = -(-(last - first) // hands)
    start = jnp.minimum(first + hand * span, last)
    stop = jnp.minimum(start + span, last)
    painted, errors = [], []
    for part, cut, index in zip(dictionary.parts, blocks, indices, strict=True):
        if index is None or not isinstance(part, WindowPart):
            mean = dense.posterior_mean(
                part, cut, x, alpha, sigma, images, mean_pixel, start, stop,
                span=span, sharded=sharded,
            )  # fmt: skip
            error = jnp.zeros_like(mean[..., 0])
        else:
            mean, error = near_far.posterior_mean(
                part, x, alpha[0], sigma[0], mean_pixel, *index, tolerance, sharded=sharded
            )
        painted.append(mean)
        errors.append(error)
    mean, error = (_put_together(dictionary.parts, of_parts) for of_parts in (painted, errors))
    return mean.reshape(x.shape), error.reshape(x.shape[:3])


def _put_together(parts: tuple[Part, ...], painted: list[Array]) -> Array:
    """What each part has painted, [B, its pixels, ...], in the order of all pixels."""
    order = np.argsort(np.concatenate([part.pixels for part in parts]))
    return jnp.concatenate(painted, axis=1)[:, order]


def _mean_pixel(images: np.ndarray) -> np.ndarray:
    """Mean over images and places, [C], scaled, in float64."""
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
    return mean / 127.5 - 1 if images.dtype == np.uint8 else mean


def _sorted_by_class(
    images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """Images sorted by class, and the range [start, stop) of each class."""
    classes, counts = np.unique(labels, return_counts=True)
    stops = np.cumsum(counts)
    ranges = {
        int(label): (int(stop - count), int(stop))
        for label, count, stop in zip(classes, counts, stops, strict=True)
    }
    return images[np.argsort(labels, kind="stable")], ranges
