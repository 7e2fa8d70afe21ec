"""`elsjax zoo`: the trained networks that come with the package."""

import dataclasses

from elsjax.nn.zoo import zoo


@dataclasses.dataclass(frozen=True)
class Zoo:
    """List the trained networks that come with the package, and the command that trained each."""

    def __call__(self) -> None:
        """Runs the command."""
        for name, entry in zoo().items():
            kind = "conditional" if entry.conditional else "unconditional"
            print(
                f"{name:32} {kind}, {entry.dataset} {entry.split}, {entry.num_images:,} images; "
                f"{entry.steps:,} steps, {entry.images_seen:,} images seen, loss {entry.loss:.4f}"
            )
            print(f"    {entry.command}")
