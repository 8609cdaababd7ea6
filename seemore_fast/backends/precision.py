"""Arithmetic by name: fp32, bf16, fp16 -> the autocast context that a SeemoRe follows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from seemore_fast.errors import BackendError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, dtype: str) -> AbstractContextManager[object]:
    """A context, for any number of uses, in which networks on ``device`` (cpu, cuda) compute in ``dtype``.

    Raises BackendError for an unknown ``dtype``, and for fp16 on the CPU.
    """
    if dtype not in DTYPES:
        raise BackendError(f"unknown dtype {dtype!r}; there are {', '.join(DTYPES)}")
    if dtype == "fp32":
        return nullcontext()
    if dtype == "fp16" and device == "cpu":
        raise BackendError("dtype fp16 needs a GPU; on the CPU use fp32 or bf16")
    return torch.autocast(device, DTYPES[dtype])


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype of the autocast that ``x`` is under; None if under none, or if it is float64, which stays."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):
        return None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
