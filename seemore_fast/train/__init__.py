"""Training: option file -> weights.  `loop.train` is the whole of it; docs/training.md is for its users."""
