"""Networks as they were at some steps of one training, which goes on where it stopped."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import ArrayLike

from elsjax import checks
from elsjax.experiments.runs import Run
from elsjax.nn import Network
from elsjax.nn.files import load_network, network_bytes
from elsjax.training.checkpoints import Checkpoints
from elsjax.training.config import TrainingConfig
from elsjax.training.loop import training_steps
from elsjax.training.step import initial_state, trained_network

_EVERY = 10  # steps that a snapshot's number is a multiple of
_SAVED_EVERY = 200  # steps
_FIRST_SHARE = 200  # of all steps: the first snapshot


def snapshot_steps(num_steps: int, count: int) -> tuple[int, ...]:
    """Steps evenly on a logarithmic scale, the last of them `num_steps`.

    Args:
      num_steps: steps of the training.
      count: how many at most.

    Returns:
      Rising steps, multiples of 10 but for the last; fewer where there are not so many between.

    Raises:
      ValueError: if an argument is not positive.
    """
    checks.positive_int("num_steps", num_steps)
    checks.positive_int("count", count)
    if count == 1:
        return (num_steps,)
    first = max(_EVERY, num_steps // _FIRST_SHARE)
    spread = np.geomspace(first, max(first, num_steps), count)[:-1]
    rounded = (_EVERY * np.rint(spread / _EVERY)).astype(int).tolist()
    return (*(step for step in dict.fromkeys(rounded) if step < num_steps), num_steps)


def train_snapshots(
    network: Network,
    images: ArrayLike,
    config: TrainingConfig,
    steps: Sequence[int],
    run: Run,
    name: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Network]:
    """Trains a network; keeps it as it is at some steps, with averaged weights.

    They are written as `<name>-<step>.safetensors`. Training goes on from its last checkpoint, to
    the same end as if it had never been stopped. Its checkpoints are in the folder
    `<name>-checkpoints` of the run, which is to be removed when it is no longer needed.

    Args:
      network: what to train, an unconditional network; it is not changed.
      images: [N, H, W, C], uint8 or floating-point in [-1, 1].
      config: how to train.
      steps: of `snapshot_steps`; the last is `config.num_steps`.
      run: a started run.
      name: of the network, a part of names of files.
      progress: called with the steps that are taken and their number, at first before any is.

    Returns:
      The networks at each of the steps.

    Raises:
      ValueError: if the data do not fit the network or the configuration.
      FloatingPointError: if training diverges.
    """
    start = initial_state(network, config)
    checkpoints = Checkpoints(run.folder(f"{name}-checkpoints"))
    state = checkpoints.latest(start)
    taken = 0 if state is None else int(state.step)
    files = {step: f"{name}-{step:06d}.safetensors" for step in steps}
    lost = [f for step, f in files.items() if step <= taken and not (run.partial / f).is_file()]
    if lost:
        checks.warn(f"{lost[0]!r} of the unfinished run is lost; its training starts anew")
        checkpoints.close()
        run.remove(f"{name}-checkpoints")
        checkpoints = Checkpoints(run.folder(f"{name}-checkpoints"))
        state, taken = None, 0
    if progress is not None:
        progress(taken, config.num_steps)
    for reached in training_steps(network, images, None, config, state=state, report_every=_EVERY):
        if reached.step in files:
            kept = trained_network(network, reached.state)
            run.save_bytes(files[reached.step], network_bytes(kept))
        if reached.step % _SAVED_EVERY == 0 or reached.step == config.num_steps:
            checkpoints.save(reached.step, reached.state)
        if progress is not None:
            progress(reached.step, config.num_steps)
    checkpoints.close()
    return [load_network(run.partial / file) for file in files.values()]
