"""What a study of mosaics found: numbers of pieces, sources and consistency, image by image."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from elsjax import checks
from elsjax.experiments.measures import median_interval
from elsjax.experiments.mosaics.consistency import consistent
from elsjax.experiments.mosaics.limb_study import Rate
from elsjax.experiments.mosaics.pieces import Pieces
from elsjax.experiments.mosaics.resumable_pieces import pieces_as_maps
from elsjax.experiments.mosaics.tiles import Tiles
from elsjax.pixels import to_float
from elsjax.posterior.dictionaries import Kind

MOST = 0.95
"""Share of the pixels that `pieces_95` counts the pieces of."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Images of one source: training images, held-out ones, or samples.

    Attributes:
      samples: the images [B, H, W, C] by the number of steps that drew them; real ones are the same
        for any.
      label: class whose training images each is held against, [B]; None for all.
      pieces: that explain each image of the first number of steps, a row for each tolerance.
      difference: of each pixel to the centre of the nearest patch, [B, H, W], by the number of
        steps.
      tiles: of the sources at the last step, by the number of steps; of machines only.
    """

    samples: Mapping[int, np.ndarray]
    label: Int[np.ndarray, " b"] | None
    pieces: tuple[tuple[Pieces, ...], ...]
    difference: Mapping[int, np.ndarray]
    tiles: Mapping[int, Tiles]

    @property
    def images(self) -> Float[np.ndarray, "b h w c"]:
        """Those whose pieces are counted, [B, H, W, C] in [-1, 1]."""
        return to_float(next(iter(self.samples.values())))


@dataclasses.dataclass(frozen=True)
class MosaicStudy:
    """Images of several sources, and how far each is a mosaic of training images.

    Attributes:
      kind: of the machine that is the network's counterpart; its dictionary is that of pieces.
      window: side P of the windows that pieces are compared by.
      tolerance: root mean squares up to which windows are alike, and differences up to which pixels
        are the same.
      steps: numbers of steps of the reverse process.
      last_windows: side P of the window of the last step, for each number of steps.
      noise: what samples started from, [B, H, W, C].
      sources: "training", one image; "heldout", where there are any; "network"; and the machines by
        their kinds, the counterpart last.
      limbs: rates of excess limbs, where there are trousers; else empty.
    """

    kind: Kind
    window: int
    tolerance: tuple[float, ...]
    steps: tuple[int, ...]
    last_windows: Mapping[int, int]
    noise: Float[np.ndarray, "b h w c"]
    sources: Mapping[str, Source]
    limbs: Mapping[str, Rate]

    def measures(self, source: str, tolerance: float) -> dict[str, Float[np.ndarray, " b"]]:
        """What there is to say of each image of a source.

        Args:
          source: its name.
          tolerance: one of the study's.

        Returns:
          Numbers for each image, [B], by name: `pieces`; `pieces_95`, how many of them cover 95 %,
          infinite where all cover less; `uncovered` and `in_place`, shares of the pixels;
          `consistent_S`, the share of pixels that are those of the nearest patch, for each number
          S of steps; and for machines `tiles_S`, tiles of the sources of the last step with a
          clear pixel, and `ambiguous_S`, the share of pixels without a clear source.

        Raises:
          ValueError: if there is no such source or tolerance.
        """
        checks.one_of("source", source, self.sources)
        if tolerance not in self.tolerance:
            raise ValueError(
                f"tolerance={tolerance} is none of {', '.join(map(str, self.tolerance))}"
            )
        found = self.sources[source]
        pieces = found.pieces[self.tolerance.index(tolerance)]
        needed = [one.needed(MOST) for one in pieces]
        values: dict[str, Any] = {
            "pieces": [one.count for one in pieces],
            "pieces_95": [np.inf if number is None else number for number in needed],
            "uncovered": [one.uncovered_share for one in pieces],
            "in_place": [one.in_place_share for one in pieces],
        }
        for steps, difference in found.difference.items():
            values[f"consistent_{steps}"] = consistent(difference, tolerance).mean((1, 2))
        for steps, tiles in found.tiles.items():
            clear = ~tiles.ambiguous
            pairs = zip(tiles.tile, clear, strict=True)
            values[f"tiles_{steps}"] = [len(np.unique(tile[of_one])) for tile, of_one in pairs]
            values[f"ambiguous_{steps}"] = tiles.ambiguous.mean((1, 2))
        return {name: np.asarray(of_all, float) for name, of_all in values.items()}

    def summary(self) -> list[dict[str, Any]]:
        """Medians over the images, a row for each source and tolerance.

        Returns:
          Rows of JSON values: `source`, `tolerance`, `num_images`; the median of each measure and
          its exact 95 % interval (`..._interval`, None for fewer than 6 images). None stands for
          what is infinite: no number of pieces covers so much.
        """
        rows = []
        for source, found in self.sources.items():
            for tolerance in self.tolerance:
                row: dict[str, Any] = {
                    "source": source,
                    "tolerance": tolerance,
                    "num_images": len(found.images),
                }
                for name, values in self.measures(source, tolerance).items():
                    row[name], row[f"{name}_interval"] = median(values)
                rows.append(row)
        return rows

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, as `elsjax study mosaics` writes it.

        Returns:
          For each source and number S of steps `images_SOURCE_S`, in [-1, 1] or of 8 bits, as real
          ones may be, `difference_SOURCE_S` and, of machines, `tile_SOURCE_S` and
          `ambiguous_SOURCE_S`; for each source `labels_SOURCE`, where there are any,
          `piece_SOURCE`, the number of the piece of each pixel, -1 for none, [tolerance, B, H, W],
          and `label_of_piece_SOURCE`, its training image, row offset and column offset,
          [tolerance, B, H, W, 3]; `noise`, `tolerance` and `steps`. For limbs `limbs_SOURCE`, the
          number of excesses and of images.
        """
        arrays = {
            "noise": self.noise,
            "tolerance": np.array(self.tolerance),
            "steps": np.array(self.steps),
        }
        for name, found in self.sources.items():
            arrays |= {f"images_{name}_{steps}": of_one for steps, of_one in found.samples.items()}
            for steps, difference in found.difference.items():
                arrays[f"difference_{name}_{steps}"] = difference
            for steps, tiles in found.tiles.items():
                arrays[f"tile_{name}_{steps}"] = tiles.tile
                arrays[f"ambiguous_{name}_{steps}"] = tiles.ambiguous
            if found.label is not None:
                arrays[f"labels_{name}"] = found.label
            maps = [[pieces_as_maps(one) for one in row] for row in found.pieces]
            for of_pieces, array in (("piece", "piece"), ("label", "label_of_piece")):
                arrays[f"{array}_{name}"] = np.array([[m[of_pieces] for m in row] for row in maps])
        return arrays | {f"limbs_{name}": np.array(rate) for name, rate in self.limbs.items()}


def median(
    values: Float[np.ndarray, " b"],
) -> tuple[float | None, tuple[float | None, float | None] | None]:
    """A median with its interval, both None where they are infinite or there are too few."""
    # Infinite values are larger than all others, whatever number stands for them.
    most = 1 + np.where(np.isfinite(values), values, 0).max()
    interval = median_interval(np.minimum(values, most))
    middle = float(np.median(values))
    ends = None if interval is None else tuple(None if end == most else end for end in interval)
    return (middle if np.isfinite(middle) else None), ends  # type: ignore[return-value]
