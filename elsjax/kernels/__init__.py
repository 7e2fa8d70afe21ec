"""Ways to evaluate a dictionary's posterior mean."""
