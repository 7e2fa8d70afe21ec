"""Logits of all circular translates of whole images (ES): both products by Fourier transforms."""

import dataclasses
import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from elsjax.posterior import softmax
from elsjax.posterior.dictionaries import ImagePart, Part
from elsjax.posterior.methods.method import Block, Method, Plan
from elsjax.posterior.methods.products import fitting
from elsjax.posterior.ranking import Largest
from elsjax.posterior.softmax import Entries, PosteriorState, Request


@dataclasses.dataclass(frozen=True)
class Fourier(Method):
    """Correlations with all translates at once."""

    part: ImagePart

    @staticmethod
    def applies(part: Part) -> bool:
        """For translates."""
        return isinstance(part, ImagePart) and part.translates

    @property
    def multiplications(self) -> float:
        """See `Method.multiplications`."""
        return 4 * math.log2(self.part.keys_per_image)

    def plan(self, batch: int, num_images: int, itemsize: int, budget: int) -> Plan:
        """See `Method.plan`."""
        part = self.part
        row_bytes = itemsize * (2 * (part.key_size + 1) + 4 * (part.value_size + 2))
        image_bytes, pair_bytes = (
            itemsize * 6 * size for size in (part.key_size, part.keys_per_image)
        )
        return fitting(batch, num_images, row_bytes, image_bytes, pair_bytes, budget)

    def queries(self, x: Float[Array, "b h w c"]) -> Float[Array, "1 b 1 d"]:
        """The noisy images, flattened; see `Method.queries`."""
        return x.reshape(1, len(x), 1, -1)

    def state(
        self,
        queries: Float[Array, "1 r e"],
        block: Block,
        request: Request,
        seen: Largest | None,
    ) -> tuple[PosteriorState, Largest | None]:
        """See `Method.state`."""
        height, width, _ = self.part.image_shape
        rows, num = queries.shape[1], len(block.images)

        def forward(array: Array) -> Array:
            return jnp.fft.rfft2(array, axes=(1, 2))

        def inverse(array: Array) -> Array:
            return jnp.fft.irfft2(array, s=(height, width), axes=(1, 2))

        query_spectra = forward(queries[0, :, :-1].reshape(rows, *self.part.image_shape))
        products = jnp.einsum(
            "rhwc,nhwc->rnhw",
            query_spectra,
            forward(block.images).conj(),
            precision=lax.Precision.HIGHEST,
        )
        # logits[r, n, i, j]: query r against image n rolled by (i, j).
        logits = inverse(products.reshape(rows * num, *products.shape[2:]))
        norms = jnp.sum(block.images * block.images, axis=(1, 2, 3))
        of_norms = queries[0, :, -1, None, None] * norms[None, :, None]
        logits = (logits.reshape(rows, num, -1) + of_norms).reshape(1, rows, -1)
        spectra = forward(request.values(block.images))

        def weigh(weights: Array) -> tuple[Array, Array]:
            weights = weights.reshape(rows, num, height, width) * block.counts[None, :, None, None]
            weight_spectra = forward(weights.reshape(rows * num, height, width))
            weight_spectra = weight_spectra.reshape(rows, num, *weight_spectra.shape[1:])
            totals = inverse(
                jnp.einsum(
                    "rnhw,nhwc->rhwc", weight_spectra, spectra, precision=lax.Precision.HIGHEST
                )
            )
            # Values first, then their squares and so on, as whole images.
            parts = jnp.split(totals, request.moments, axis=-1)
            totals = jnp.concatenate([part.reshape(rows, -1) for part in parts], axis=-1)
            return weights.sum((1, 2, 3))[None], totals[None]

        entries = Entries(block.counts, block.numbers)
        return softmax.from_ranked_logits(logits, weigh, request, entries, seen)
