"""Triton kernels, one file per op (docs/triton.md); installed as ``seemore_fast.kernels``."""
