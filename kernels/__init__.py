"""Triton kernels, one file per op; installed as ``seemore_fast.kernels``."""
