"""Many devices: a mesh with an axis for the training images and one for the noisy images.

Along "data" each device holds a share of the training images and sums over it; what crosses between
devices is the state of the softmax, of the size of the noisy images, whatever the size of the data.
Along "sample" each device takes a share of the noisy images, and nothing crosses. A network, which
has no training images to share, takes its share of the noisy images on every device of both axes.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, ArrayLike

from elsjax import checks

DATA, SAMPLE = "data", "sample"


def use_all_cores() -> None:
    """Makes each usable core of a CPU a device of its own, where JAX has not started yet.

    Devices with a thread each are faster than one with as many threads: nearly twice in training,
    up to a third for machines, whose matrix products use all threads of a device anyway.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", usable_cores())


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores of the CPU this process may use: by its affinity, and by a container's quota.

    Args:
      root: where /proc and /sys lie.

    Returns:
      The number of cores, at least 1; a part of a core counts as one.
    """
    cores: int | None
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        cores = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    return max(1, min([cores or 1, *map(math.ceil, _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Quotas of CPU time, in cores, of the control groups around this process (Linux)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, name = [*line.split(":", 2), "none", "/"][:3]
        if controllers == "":  # version 2
            mounts, files = [""], ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mounts, files = ["cpu", "cpu,cpuacct"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # A container sees a part of the tree, though its group's name may be that in the whole.
        group = PurePosixPath(name.lstrip("/"))
        for mount, around in itertools.product(mounts, (group, *group.parents)):
            folder = root / "sys/fs/cgroup" / mount / around
            with contextlib.suppress(OSError, ValueError):  # "max" is no number, and no quota
                words = " ".join((folder / file).read_text() for file in files).split()
                quota, period = map(float, words)
                if quota > 0 and period > 0:  # -1 is none
                    yield quota / period


def make_mesh(
    data: int | None = None, sample: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """A mesh of devices, for `ScoreMachine` and `sample`.

    Args:
      data: number of devices to share the training images between; None for all there are, over
        `sample`.
      sample: number of devices to share the noisy images between.
      devices: the devices; None for the first of all, those of other processes included.

    Returns:
      A mesh of data × sample devices.

    Raises:
      ValueError: if an argument is not as described, or there are fewer devices than that.
    """
    if not isinstance(devices, Iterable | None):
        raise ValueError(f"devices={devices!r} must be a sequence of devices")
    devices = jax.devices() if devices is None else list(devices)
    for device in devices:
        checks.instance("devices", device, jax.Device, "those of jax.devices()")
    sample = checks.positive_int("sample", sample)
    data = max(1, len(devices) // sample) if data is None else checks.positive_int("data", data)
    if data * sample > len(devices):
        raise ValueError(
            f"data={data} × sample={sample} needs {data * sample} devices; there are {len(devices)}"
        )
    auto = jax.sharding.AxisType.Auto
    return jax.make_mesh(
        (data, sample), (DATA, SAMPLE), (auto, auto), devices=devices[: data * sample]
    )


def check_mesh(mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError unless a mesh has the axes of `make_mesh`, their types included."""
    checks.instance("mesh", mesh, jax.sharding.Mesh, "elsjax.make_mesh()")
    if tuple(mesh.axis_names) != (DATA, SAMPLE):
        raise ValueError(
            f"mesh has the axes {tuple(mesh.axis_names)}; expected {(DATA, SAMPLE)}, "
            "as elsjax.make_mesh gives them"
        )
    if set(mesh.axis_types) != {jax.sharding.AxisType.Auto}:
        raise ValueError(
            f"mesh has the axis types {tuple(map(str, mesh.axis_types))}; expected Auto, as "
            "elsjax.make_mesh gives them"
        )


def spread(array: Array, mesh: jax.sharding.Mesh, axes: str | tuple[str, ...]) -> Array:
    """An array over a mesh, an equal share of its rows on each device along the axes.

    Args:
      array: [B, ...].
      mesh: the devices.
      axes: names of axes of the mesh.

    Returns:
      The array, filled up with its last row to what they divide.
    """
    names = (axes,) if isinstance(axes, str) else axes
    count = len(array) + -len(array) % math.prod(mesh.shape[name] for name in names)
    return _put(filled(array, count), jax.NamedSharding(mesh, jax.P(axes)))


def filled(array: ArrayLike, count: int) -> Array | np.ndarray:
    """An array [B, ...] filled up with its last row to [count, ...]; NumPy's stay on the host."""
    array = array if isinstance(array, jax.Array) else np.asarray(array)
    return array if len(array) == count else array[np.minimum(np.arange(count), len(array) - 1)]


def everywhere(tree: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Arrays, whole on every device of a mesh; where they are for None."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda array: _put(array, jax.NamedSharding(mesh, jax.P())), tree)


def _put(array: ArrayLike, sharding: jax.NamedSharding) -> Array:
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        # Keys themselves do not go to the devices of other processes.
        bits = _put(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(array))
    if isinstance(array, jax.core.Tracer):
        # The batching rule of `jax.device_put` takes the axis of `jax.vmap` for the first one.
        return jax.lax.with_sharding_constraint(array, sharding)
    return jax.device_put(array, sharding)


def interleave(images: np.ndarray, num_shards: int) -> np.ndarray:
    """Images in the order in which each shard, an equal part of it, is every num_shards-th image.

    Shard d is images d, d + num_shards, d + 2 num_shards, ...; so every range of images is shared
    evenly. The last image fills up the shards that are one short; `shard_range` leaves it out.

    Args:
      images: [N, ...].
      num_shards: number of shards.

    Returns:
      [N rounded up to a multiple of num_shards, ...].
    """
    padding = -len(images) % num_shards
    padded = np.concatenate([images, images[-1:].repeat(padding, axis=0)]) if padding else images
    return padded.reshape(-1, num_shards, *images.shape[1:]).swapaxes(0, 1).reshape(padded.shape)


def shard_range(
    start: jax.Array | int, stop: jax.Array | int, shard: jax.Array | int, num_shards: int
) -> tuple[jax.Array | int, jax.Array | int]:
    """Which images [start, stop) of a shard are images [start, stop) of all; see `interleave`."""
    return -((shard - start) // num_shards), -((shard - stop) // num_shards)
