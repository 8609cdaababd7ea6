"""LayerNorm over the channels of each pixel."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from seemore_fast.backends.choice import Backend
from seemore_fast.network.parameters import Layer
from seemore_fast.ops._operator import Operator
from seemore_fast.ops._register import register


def layer_norm2d(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6, *, backend: Backend = None
) -> Tensor:
    """``(x - mean) / sqrt(variance + eps) * weight + bias``, statistics over C (biased) in at least float32.

    x: (N, C, H, W), floating; weight, bias: (C,); eps >= 0.  Returns (N, C, H, W).

    Raises ValueError (shape, device, eps), TypeError (dtype) or BackendError; see :mod:`seemore_fast.ops`.
    """
    return _run([x], (weight, bias), eps, backend=backend)[0]


def reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    wide = x if x.dtype == torch.float64 else x.float()
    centred = wide - wide.mean(1, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + eps)
    return ((normal * weight[:, None, None] + bias[:, None, None]).to(x.dtype),)


_run = register(Operator("layer_norm2d", ("x",), Annotated[Layer, "C"], {"eps": "float"}, reference))
