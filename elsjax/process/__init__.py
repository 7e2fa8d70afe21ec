"""The diffusion process: noise schedules, windows, denoisers and how they are sampled."""
