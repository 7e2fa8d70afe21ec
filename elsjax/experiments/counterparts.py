"""The machine that predicts a network best, as far as its architecture says: kind and window."""

from elsjax.nn import Network, ResNet
from elsjax.posterior.dictionaries import Kind
from elsjax.process.windows import published_table


def own_kind(network: Network) -> Kind:
    """The equivariant local kind of machine that treats borders as a network does."""
    return "els" if network.padding == "circular" else "bbels"


def architecture(network: Network) -> str:
    """What published tables call a network: "resnet", or "unet" for all that are no ResNet."""
    return "resnet" if isinstance(network, ResNet) else "unet"


def own_table(network: Network, dataset: str) -> str | None:
    """The window schedule published for networks like one.

    Args:
      network: the network.
      dataset: name of what it was trained on.

    Returns:
      One of `elsjax.process.windows.PUBLISHED_WINDOWS`; None if none was published.
    """
    return published_table(dataset, architecture(network), network.padding)
