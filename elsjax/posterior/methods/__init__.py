"""Methods to have logits, and the choice between them."""

from elsjax.posterior.dictionaries import Part
from elsjax.posterior.methods.fourier import Fourier
from elsjax.posterior.methods.fused import Fused
from elsjax.posterior.methods.lines import Lines
from elsjax.posterior.methods.method import Block, Method, Plan
from elsjax.posterior.methods.products import Products
from elsjax.posterior.methods.sliding import Sliding
from elsjax.posterior.softmax import MEAN, Request

__all__ = ["METHODS", "Block", "Method", "Plan", "choose"]

# Those of any device; the choice is by their cost.
METHODS: tuple[type[Method], ...] = (Products, Sliding, Lines, Fourier)


def choose(part: Part, request: Request = MEAN, *, use_fused: bool = False) -> Method:
    """The cheapest method for a part.

    Args:
      part: the part of the dictionary.
      request: what is asked for.
      use_fused: whether the device and the types of images and noise are those of `Fused`.

    Returns:
      The method.
    """
    fused = (Fused,) if use_fused and Fused.answers(request) else ()
    applying = (method(part) for method in (*METHODS, *fused) if method.applies(part))  # type: ignore[call-arg]
    return min(applying, key=lambda method: method.cost)
