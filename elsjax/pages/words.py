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
"""Score machines, by kind."""

DENOISERS = {
    **MACHINES,
    **{
        f"wiener-{kind}": Machine(
            f"Wiener {machine.name}",
            f"Wiener filter: the best linear denoiser that sees what {machine.name} sees. It knows "
            "means and covariances of the training images, and copies nothing.",
        )
        for kind, machine in MACHINES.items()
    },
    "pca-locality": Machine(
        "PCA locality",
        "Every pixel is compared with whole training images at the pixels that matter to it in "
        "their Wiener filter, and copied from the same place.",
    ),
    "pspc": Machine(
        "PSPC",
        "Patch set posterior composites: every crop of the picture is compared with the same crop "
        "of the training images, and what crops say of a pixel is averaged.",
    ),
    "golden": Machine(
        "golden subset",
        "IS, over those training images only that are nearest to the noisy picture.",
    ),
    **{
        f"smoothed-{kind}": Machine(
            f"smoothed {machine.name}",
            f"{machine.name}, averaged over copies of the noisy picture with a little more noise.",
        )
        for kind, machine in MACHINES.items()
    },
}
"""Score machines and other analytic denoisers, by the names that commands have for them."""
