"""Denoisers in closed form other than the score machines."""

from elsjax.analytic.wiener import WienerDenoiser

__all__ = ["WienerDenoiser"]
