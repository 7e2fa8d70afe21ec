"""An index of training patches, and how the posterior mean is looked up in it."""
