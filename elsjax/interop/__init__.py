"""Networks and window schedules of the published PyTorch code."""
