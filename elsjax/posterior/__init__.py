"""The posterior over training patches: entries, logits, and what is asked of the weights."""
