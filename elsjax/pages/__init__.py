"""Pages for a browser."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from elsjax.experiments.mosaics import Mosaic


def mosaic_page(
    mosaic: Mosaic,
    images: UInt8[np.ndarray, "n h w c"],
    *,
    labels: Int[np.ndarray, " n"] | None,
    class_names: Sequence[str] | None,
    network: Float[np.ndarray, "b h w c"] | None,
    title: str,
    config: dict[str, Any],
) -> list[str]:
    """Pages that show a mosaic."""
    return [f"<!doctype html><title>{title}</title>"]
