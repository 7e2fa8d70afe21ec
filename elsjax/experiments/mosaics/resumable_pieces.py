"""Fewest pieces of many images that go on where they stopped: those of each image are kept."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Int, Real

from elsjax import checks
from elsjax.experiments.mosaics.pieces import Pieces, fewest_pieces
from elsjax.experiments.states import States
from elsjax.posterior.dictionaries import Dictionary, Kind


class _Job(NamedTuple):
    """One image, by the name of its source and its number there, and the place of a tolerance."""

    source: str
    place: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.source}-pieces-{self.number}-{self.place}"


class ResumablePieces:
    """Fewest pieces of images of several sources, at several tolerances.

    Args:
      images: training images, [N, H, W, C], uint8 or floating point in [-1, 1].
      labels: their classes, [N]; None without.
      kind: see `fewest_pieces`; training patches of "els" wrap around.
      window: see `fewest_pieces`.
      tolerance: root mean squares of differences up to which windows are alike.
      states: keeps the pieces of each image; None to keep none.

    Attributes:
      window: side P of the window.

    Raises:
      ValueError: if the window does not suit the kind.
    """

    def __init__(
        self,
        images: Real[ArrayLike, "n h w c"],
        labels: Int[np.ndarray, " n"] | None = None,
        *,
        kind: Kind = "bbels",
        window: int = 3,
        tolerance: Sequence[float] = (0.1,),
        states: States | None = None,
    ) -> None:
        self._images = checks.training_images("images", images)
        self._shape = self._images.shape[1:]
        self._labels, self._kind, self._tolerance = labels, kind, tuple(tolerance)
        self._states = States() if states is None else states
        self._wraps = kind == "els"
        Dictionary(kind, self._shape, window, self._wraps)  # refuses a window
        self.window = window

    def of_all(
        self,
        samples: Mapping[str, Real[np.ndarray, "b h w c"]],
        labels: Mapping[str, Int[np.ndarray, " b"] | None],
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, tuple[tuple[Pieces, ...], ...]]:
        """Pieces of all images; of the first of each source first.

        Args:
          samples: images of each source, [B, H, W, C].
          labels: classes whose training images they are held against, [B]; None for all.
          progress: called with the number of results that there are and will be, at first with
            those that were kept.

        Returns:
          Pieces, by source, tolerance and image. They name training images by their number among
          all.

        Raises:
          ValueError: as `fewest_pieces`.
        """
        places = range(len(self._tolerance))
        numbers = range(max(map(len, samples.values())))
        jobs = [
            _Job(source, place, number)
            for number, source, place in itertools.product(numbers, samples, places)
            if number < len(samples[source])
        ]
        found = self._earlier(jobs)
        if progress is not None:
            progress(len(found), len(jobs))
        for job in jobs:
            if job in found:
                continue
            label = labels[job.source]
            found[job] = self._pieces(
                samples[job.source][job.number],
                None if label is None else int(label[job.number]),
                self._tolerance[job.place],
            )
            self._states.save(job.name, pieces_as_maps(found[job]))
            if progress is not None:
                progress(len(found), len(jobs))
        return {
            source: tuple(
                tuple(found[_Job(source, place, number)] for number in range(len(images)))
                for place in places
            )
            for source, images in samples.items()
        }

    def _earlier(self, jobs: Sequence[_Job]) -> dict[_Job, Pieces]:
        """What an earlier start kept."""
        new = {
            "piece": np.zeros(self._shape[:2], np.int32),
            "label": np.zeros((*self._shape[:2], 3), np.int32),
        }
        states = {job: self._states.load(job.name, new, self._are_pieces) for job in jobs}
        return {job: pieces_of_maps(state) for job, state in states.items() if state is not new}

    def _pieces(
        self, image: Real[np.ndarray, "h w c"], label: int | None, tolerance: float
    ) -> Pieces:
        numbers = np.arange(len(self._images))
        if label is not None:
            numbers = numbers[self._labels == label]
        pieces = fewest_pieces(
            image,
            self._images[numbers],
            window=self.window,
            tolerance=tolerance,
            kind=self._kind,
            wrap_patches=self._wraps,
        )
        pieces.labels[:, 0] = numbers[pieces.labels[:, 0]]
        return pieces

    def _are_pieces(self, maps: Mapping[str, np.ndarray]) -> bool:
        """Whether what was kept may be pieces."""
        try:
            pieces = pieces_of_maps(maps)
        except ValueError:
            return False
        number, *offset = pieces.labels.T
        return bool(
            (pieces.piece >= -1).all()
            and (np.diff(pieces.covered) <= 0).all()
            and ((number >= 0) & (number < len(self._images))).all()
            and (np.abs(offset) < np.array(self._shape[:2])[:, None]).all()
            and np.array_equal(pieces_as_maps(pieces)["label"], maps["label"])
        )


def pieces_as_maps(pieces: Pieces) -> dict[str, np.ndarray]:
    """Pieces as arrays of one size, however many there are.

    Args:
      pieces: of an image.

    Returns:
      `piece`, the number of the piece of each pixel, -1 for none, [H, W]; and `label`, that of this
      piece, 0 for none, [H, W, 3].
    """
    label = np.zeros((*pieces.piece.shape, 3), np.int32)
    covered = ~pieces.uncovered
    label[covered] = pieces.labels[pieces.piece[covered]]
    return {"piece": pieces.piece.astype(np.int32), "label": label}


def pieces_of_maps(maps: Mapping[str, np.ndarray]) -> Pieces:
    """The inverse of `pieces_as_maps`.

    Args:
      maps: its result.

    Returns:
      The pieces.

    Raises:
      ValueError: if a number of a piece is missing.
    """
    piece = maps["piece"].astype(int)
    covered = piece >= 0
    taken, first, counts = np.unique(piece[covered], return_index=True, return_counts=True)
    if taken.tolist() != list(range(len(taken))):
        raise ValueError("piece must hold -1, 0, 1, ... up to the number of pieces less one")
    return Pieces(maps["label"][covered][first].astype(int), counts, piece)
