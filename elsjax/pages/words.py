"""What the pages call the score machines, and what they say of them."""

from typing import NamedTuple


class Machine(NamedTuple):
    """A kind of score machine, for readers.

    Attributes:
      name: as the paper has it.
      sentence: what it does.
    """

    name: str
    sentence: str


MACHINES = {
    "is": Machine(
        "IS",
        "Ideal score machine: every pixel sees the whole image. All it can do is to replay "
        "training images.",
    ),
    "es": Machine(
        "ES",
        "Equivariant score machine: sees the whole image, but not where things are in it. It "
        "replays training images, shifted.",
    ),
    "ls": Machine(
        "LS",
        "Local score machine: every pixel sees a window around it, and copies from the same place "
        "of the training images.",
    ),
    "els": Machine(
        "ELS",
        "Equivariant local score machine: every pixel sees a window around it, and copies from any "
        "place of the training images. The picture wraps around at its borders.",
    ),
    "bbels": Machine(
        "bbELS",
        "Boundary-broken equivariant local score machine: every pixel sees a window around it, and "
        "copies from any place of the training images, except that near a border it copies from "
        "the same distance to it.",
    ),
}
"""By kind."""
