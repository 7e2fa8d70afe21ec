"""Experiments with networks and machines, and the folders of their results."""
