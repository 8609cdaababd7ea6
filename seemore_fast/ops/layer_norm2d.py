"""LayerNorm over the channels of each pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seemore_fast.ops import _cpu
from seemore_fast.ops._common import Backend, cast, check_image, check_like, choose
from seemore_fast.ops._register import register


def layer_norm2d(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6, *, backend: Backend = None
) -> Tensor:
    """``(x - mean) / sqrt(variance + eps) * weight + bias``, statistics over C (biased) in at least float32.

    x: (N, C, H, W), floating; weight, bias: (C,); eps >= 0.  Returns (N, C, H, W).

    Raises ValueError (shape, device, eps), TypeError (dtype) or BackendError; see :mod:`seemore_fast.ops`.
    """
    check_image("x", x)
    check_like(x, "weight", weight, (x.shape[1],))
    check_like(x, "bias", bias, (x.shape[1],))
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps!r}")
    chosen = choose(backend, "layer_norm2d", x, weight, bias)
    if chosen == "reference":
        return reference(x, weight, bias, eps)[0]
    return _op(*cast(chosen, [x], [weight, bias]), eps, chosen)[0]


def reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    wide = x if x.dtype == torch.float64 else x.float()
    centred = wide - wide.mean(1, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + eps)
    return ((normal * weight[:, None, None] + bias[:, None, None]).to(x.dtype),)


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    *tensors, eps = inputs
    return _cpu.forward("layer_norm2d", tensors, eps=eps)


def _backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    *tensors, eps, needs = inputs
    return _cpu.backward("layer_norm2d", grad, tensors, needs, eps=eps)


_op = register(
    "layer_norm2d(Tensor x, Tensor weight, Tensor bias, float eps)",
    reference=reference,
    forward=_forward,
    backward=_backward,
)
