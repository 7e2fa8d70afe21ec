"""The fewest pieces of training images that explain an image: a mosaic, whoever made it.

A label (n, o), a training image and an offset, covers pixel i where

    root mean square of image[Ω_i] - images[n][Ω_i+o] <= tolerance

over the entries inside the image of the P x P window Ω, and i + o is in the dictionary of i. Pieces
are taken greedily: the label that covers most pixels not covered yet, until none covers another.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int, Real

from elsjax import checks
from elsjax.experiments.measures import warn_of_scales
from elsjax.experiments.mosaics.coverage import Chosen, Largest, add, layout_of
from elsjax.pixels import as_pixels
from elsjax.posterior.dictionaries import Dictionary, Kind

# Bytes for a block of training images: what a core's cache holds, or a share of an accelerator.
_CACHE, _SHARE = 2**20, 3 * 2**27

# Blocks that are counted at a time.
_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Pieces of training images that explain an image, in the order taken.

    Attributes:
      labels: (n, row offset, column offset) of each, [pieces, 3]: pixel i looks like pixel i +
        offset of training image n.
      covered: number of pixels that each covers, and none before it does, [pieces].
      piece: number of the piece that each pixel is covered by, [H, W]; -1 for none.
    """

    labels: Int[np.ndarray, "pieces 3"]
    covered: Int[np.ndarray, " pieces"]
    piece: Int[np.ndarray, "h w"]

    @property
    def count(self) -> int:
        """Number of pieces."""
        return len(self.labels)

    @property
    def uncovered(self) -> Bool[np.ndarray, "h w"]:
        """Pixels that no label covers, [H, W]."""
        return self.piece < 0

    @property
    def uncovered_share(self) -> float:
        """Share of the pixels that no label covers."""
        return float(self.uncovered.mean())

    @property
    def in_place_share(self) -> float:
        """Share of the pixels that pieces of offset (0, 0) cover."""
        in_place = (self.labels[:, 1:] == 0).all(axis=1)
        return int(self.covered[in_place].sum()) / self.piece.size

    def needed(self, share: float = 0.95) -> int | None:
        """How many of the first pieces cover a share of all pixels.

        Args:
          share: in [0, 1].

        Returns:
          Their number; None where all pieces together cover less.

        Raises:
          ValueError: if share is outside [0, 1].
        """
        share = checks.in_range("share", share, 0, 1)
        covered = np.cumsum([0, *self.covered])
        enough = np.flatnonzero(covered >= share * self.piece.size)
        return int(enough[0]) if len(enough) else None


def fewest_pieces(
    image: Real[ArrayLike, "h w c"],
    images: Real[ArrayLike, "n h w c"],
    *,
    window: int | None = 3,
    tolerance: float = 0.1,
    kind: Kind = "bbels",
    wrap_patches: bool = False,
    memory_budget: int | None = None,
) -> Pieces:
    """The fewest pieces of training images that explain an image, taken greedily.

    Any image: a machine's sample, a network's, a real one. A training image is one piece. Of labels
    that cover equally many pixels the smallest (n, row offset, column offset) is taken. Counts are
    exact whatever the order of the work; for "is" and "es", which see the whole image, a label
    covers all pixels or none. Offsets of "els" and "es" wrap around, and begin at minus half of
    the side.

    Time grows with pixels x patches of all images x entries of the window, once or twice: 10
    seconds for 32 x 32 pixels, 5,000 images and P = 3 on two cores. Counts of all labels are kept:
    for "bbels" up to 8 bytes for each pixel of all images.

    Args:
      image: [H, W, C], uint8 or floating point in units of [-1, 1].
      images: training images, [N, H, W, C], uint8 or floating point in [-1, 1].
      window: odd side P of the window; None for "is" and "es".
      tolerance: root mean square of differences up to which windows are alike, from 0 to 2.
      kind: whose dictionary: "is", "es", "ls", "els" or "bbels".
      wrap_patches: "els" only: training patches wrap around the border. Else they lie inside, and
        no training image is a single piece.
      memory_budget: bytes that work on some training images at once may use, beside the images and
        the counts; None for 1 MiB on a CPU, about a core's cache, and 384 MiB on an accelerator.

    Returns:
      The pieces.

    Raises:
      ValueError: if an argument is not as described, or the image has another shape than images.
    """
    images = as_pixels(checks.training_images("images", images))
    image = _checked_image(image, images)
    tolerance = checks.in_range("tolerance", tolerance, 0, 2)
    if memory_budget is None:
        memory_budget = _CACHE if jax.default_backend() == "cpu" else _SHARE
    memory_budget = checks.positive_int("memory_budget", memory_budget)
    height, width, channels = image.shape
    dictionary = Dictionary(kind, (height, width, channels), window, wrap_patches)
    return _Cover(image, images, dictionary, tolerance, memory_budget).pieces()


@dataclasses.dataclass
class _Block:
    """Counts of the labels of some training images, of what was left after so many pieces.

    Attributes:
      images: [n, H, W, C], in levels, filled up to the size of a block.
      start: number of the first.
      num_images: how many there are.
      pieces: number of pieces taken by then; None where nothing is counted yet.
      largest: the largest count, or a bound on it.
      label: number of the image, of the row and the column offset that it belongs to.
      counts: of all labels, [row, column, n].
    """

    images: Array
    start: int
    num_images: int
    largest: int
    pieces: int | None = None
    label: tuple[int, int, int] = (0, 0, 0)
    counts: Array | None = None


class _Cover:
    """Labels of all training images, and the pixels left to cover after each piece.

    Counts only fall. So what a block's largest count once was bounds it, and a block is counted
    again only when that could be the largest of all.
    """

    def __init__(
        self,
        image: np.ndarray,
        images: np.ndarray,
        dictionary: Dictionary,
        tolerance: float,
        memory_budget: int,
    ) -> None:
        self.layout = layout_of(dictionary)
        dtype = jnp.result_type(float)
        self.image = jnp.asarray(_levels(image), dtype)
        # Squares of up to the tolerance, which is rounded itself.
        square = (127.5 * tolerance) ** 2 * (1 + 4 * float(jnp.finfo(dtype).eps))
        self.limits = tuple(
            jnp.asarray(stencil.entries * square, dtype) for stencil in self.layout.stencils
        )
        self.left = [np.ones(self.layout.shape, bool)]
        of_image = self.layout.bytes_per_image(dictionary.image_shape, dtype.itemsize)
        size = min(max(1, memory_budget // of_image), len(images))
        self.blocks = []
        for start in range(0, len(images), size):
            levels = _levels(images[start : start + size])
            filled = np.zeros((size, *levels.shape[1:]), levels.dtype)
            filled[: len(levels)] = levels
            block = _Block(jnp.asarray(filled), start, len(levels), self.left[0].size)
            self.blocks.append(block)

    def pieces(self) -> Pieces:
        """All of them."""
        labels: list[tuple[int, ...]] = []
        piece = np.full(self.layout.shape, -1)
        while (left := self.left[-1]).any():
            block = self._best()
            if block.largest == 0:
                break
            image, *offset = block.label
            covers = self._covers(block)
            assert covers.any()  # else it would go on for ever
            piece[covers] = len(labels)
            self.left.append(left & ~covers)
            labels.append((block.start + image, *np.add(self.layout.first, offset).tolist()))
        piece = np.broadcast_to(piece, self.image.shape[:2]).copy()
        covered = np.bincount(piece[piece >= 0], minlength=len(labels))
        return Pieces(np.array(labels, int).reshape(-1, 3), covered, piece)

    def _best(self) -> _Block:
        """The block of the label that covers most of what is left: of equal ones the first."""
        pieces = len(self.left) - 1
        while True:
            falling = sorted(self.blocks, key=lambda block: (-block.largest, block.start))
            old = list(itertools.takewhile(lambda block: block.pieces != pieces, falling))
            if not old:
                return falling[0]
            # They are computed at the same time, until their results are looked at.
            found = [(block, self._counted(block)) for block in old[:_AT_ONCE]]
            for block, largest in found:
                block.pieces, block.largest = pieces, int(largest.covered)
                block.label = (int(largest.image), int(largest.row), int(largest.column))

    def _counted(self, block: _Block) -> Largest:
        """Counts what is left, from nothing or from what was left before, as is less work."""
        left = self.left[-1]
        taken = None if block.pieces is None else self.left[block.pieces] & ~left
        if taken is not None and taken.sum() <= left.sum():
            block.counts, largest, _ = self._add(block, block.counts, taken, -1)
        else:
            block.counts, largest, _ = self._add(block, None, left, 1)
        return largest

    def _covers(self, block: _Block) -> np.ndarray:
        """Which of the pixels left the label of a block covers.

        By the program that counted them: so rounding cannot make a difference.
        """
        left = self.left[-1]
        _, _, hits = self._add(block, None, left, 1)
        covers = np.zeros_like(left)
        chosen = self._chosen(left)
        for stencil, pixels, hit in zip(self.layout.stencils, chosen, hits, strict=True):
            covered = stencil.pixels[pixels.numbers[np.asarray(hit)]]
            covers[tuple(covered.T)] = True
        return covers

    def _add(
        self, block: _Block, counts: Array | None, pixels: np.ndarray, sign: int
    ) -> tuple[Array, Largest, tuple[Array, ...]]:
        if counts is None:
            shape = (*self.layout.offsets, len(block.images))
            counts = jnp.zeros(shape, self.layout.dtype)
        return add(
            counts,
            block.images,
            np.int32(block.num_images),
            self.image,
            self.layout,
            self.limits,
            self._chosen(pixels),
            np.int32(sign),
            np.array(block.label, np.int32),
        )

    def _chosen(self, pixels: Bool[np.ndarray, "r s"]) -> tuple[Chosen, ...]:
        found = []
        for stencil in self.layout.stencils:
            order = np.zeros(len(stencil.pixels), np.int32)
            numbers = np.flatnonzero(pixels[tuple(stencil.pixels.T)])
            order[: len(numbers)] = numbers
            found.append(Chosen(order, np.array(len(numbers), np.int32)))
        return tuple(found)


def _levels(images: np.ndarray) -> np.ndarray:
    """Pixels in levels from 0 to 255: those of 8 bits are exact."""
    return images if images.dtype == np.uint8 else (images.astype(float) + 1) * 127.5


def _checked_image(image: ArrayLike, images: np.ndarray) -> np.ndarray:
    """The image, as 8 bits where it is one of them."""
    given, shape = checks.array("image", image), images.shape[1:]
    if given.shape != shape:
        raise ValueError(f"image has shape {list(given.shape)}; expected {list(shape)}, as images")
    found = checks.clean_images("image", given[None])[0]
    warn_of_scales("image", found, "images", images)
    return as_pixels(found)
