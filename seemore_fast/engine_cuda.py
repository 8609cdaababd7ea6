"""Whole-network inference by the native CUDA engine (csrc/seemore_cuda.h): packed weights and launches."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import fold, reference
from .engine import float32_arrays

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
"""How the engine computes, as csrc/seemore_cuda.h numbers it."""

_PIXELS = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


def pack(lib: ModuleType, network: reference.SeemoRe, precision: str, device: int) -> Any:
    """The network's folded weights on a GPU.

    Raises BackendError for a configuration beyond the engine's limits, or where a call of CUDA fails.
    """
    return lib.CudaEngine(
        float32_arrays(fold.fold_network(network)), precision=PRECISIONS.index(precision), device=device
    )


def launch(native: Any, x: Tensor, out: Tensor, workspace: Tensor, stream: int) -> None:
    """Starts the network on a CUDA stream; nothing waits for it.

    ``x`` (N, C, H, W) and ``out`` (N, C, H * scale, W * scale): contiguous, both float32, float16, bfloat16
    or uint8; ``workspace``: bytes, as many as ``native.workspace(N, H, W)`` says, aligned to 256.

    Raises ValueError for sizes out of range, BackendError where a launch fails.
    """
    n, _, h, w = x.shape
    native.forward(
        input=x.data_ptr(),
        output=out.data_ptr(),
        pixels=_PIXELS.index(x.dtype),
        n=n,
        h=h,
        w=w,
        workspace=workspace.data_ptr(),
        workspace_bytes=workspace.numel(),
        stream=stream,
    )
