"""Denoisers in closed form other than the score machines."""

from elsjax.analytic.wiener import WienerFilter, wiener_filter

__all__ = ["WienerFilter", "wiener_filter"]
