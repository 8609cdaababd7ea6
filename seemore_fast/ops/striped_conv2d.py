"""Striped convolution: depthwise 1xk, then depthwise kx1, then GELU if asked (paper section 3.3)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.ops import _cpu
from seemore_fast.ops._common import Backend, cast, check_image, check_like, choose, size
from seemore_fast.ops._register import register


def striped_conv2d(
    x: Tensor,
    weight_h: Tensor,
    bias_h: Tensor,
    weight_v: Tensor,
    bias_v: Tensor,
    gelu: bool = False,
    *,
    backend: Backend = None,
) -> Tensor:
    """Depthwise 1xk along the rows, then kx1 along the columns, each zero padded by k // 2.

    x: (N, C, H, W), floating; weight_h: (C, 1, 1, k) and weight_v: (C, 1, k, 1) with k odd; bias_h and
    bias_v: (C,).  ``gelu`` applies GELU (erf form) to the result.
    Returns (N, C, H, W).

    Raises ValueError (shape, device), TypeError (dtype) or BackendError; see :mod:`seemore_fast.ops`.
    """
    check_image("x", x)
    c, k = x.shape[1], size("weight_h", weight_h, -1)
    check_like(x, "weight_h", weight_h, (c, 1, 1, k))
    if k % 2 == 0:
        raise ValueError(f"weight_h must have shape (C, 1, 1, k) with k odd, got {tuple(weight_h.shape)}")
    check_like(x, "bias_h", bias_h, (c,))
    check_like(x, "weight_v", weight_v, (c, 1, k, 1))
    check_like(x, "bias_v", bias_v, (c,))
    weights = (weight_h, bias_h, weight_v, bias_v)
    chosen = choose(backend, "striped_conv2d", x, *weights)
    if chosen == "reference":
        return reference(x, *weights, gelu)[0]
    return _op(*cast(chosen, [x], weights), gelu, chosen)[0]


def reference(
    x: Tensor, weight_h: Tensor, bias_h: Tensor, weight_v: Tensor, bias_v: Tensor, gelu: bool
) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    weight_h, bias_h, weight_v, bias_v = (t.to(x.dtype) for t in (weight_h, bias_h, weight_v, bias_v))
    c, pad = x.shape[1], weight_h.shape[-1] // 2
    out = F.conv2d(x, weight_h, bias_h, padding=(0, pad), groups=c)
    out = F.conv2d(out, weight_v, bias_v, padding=(pad, 0), groups=c)
    return (F.gelu(out) if gelu else out,)


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    *tensors, gelu = inputs
    return _cpu.forward("striped_conv2d", tensors, kernel=tensors[1].shape[-1], gelu=gelu)


def _backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    *tensors, gelu, needs = inputs
    return _cpu.backward("striped_conv2d", grad, tensors, needs, kernel=tensors[1].shape[-1], gelu=gelu)


_op = register(
    "striped_conv2d(Tensor x, Tensor weight_h, Tensor bias_h, Tensor weight_v, Tensor bias_v, bool gelu)",
    reference=reference,
    forward=_forward,
    backward=_backward,
)
