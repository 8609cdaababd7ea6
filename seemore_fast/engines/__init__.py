"""Whole networks at speed: the native engines for inference, the fused operators for training."""
