"""Spatial enhancement by striped convolutions, the first half of SME (paper section 3.3)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.ops import _cpu
from seemore_fast.ops._common import Backend, cast, check_all, check_image, choose, size
from seemore_fast.ops._register import register
from seemore_fast.ops.striped_conv2d import reference as stripes


def striped_attention(
    x: Tensor,
    qv_weight: Tensor,
    qv_bias: Tensor,
    weight_h: Tensor,
    bias_h: Tensor,
    weight_v: Tensor,
    bias_v: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    *,
    backend: Backend = None,
) -> Tensor:
    """``proj(stripes(q) * v)`` with q, v the halves of ``GELU(qv x)``; stripes as in `striped_conv2d`.

    x: (N, C, H, W), floating; qv_weight: (2C, C, 1, 1); qv_bias: (2C,); weight_h: (C, 1, 1, k) and weight_v:
    (C, 1, k, 1) with k odd; proj_weight: (C, C, 1, 1); bias_h, bias_v, proj_bias: (C,).
    Returns (N, C, H, W).

    Raises ValueError (shape, device), TypeError (dtype) or BackendError; see :mod:`seemore_fast.ops`.
    """
    check_image("x", x)
    weights = (qv_weight, qv_bias, weight_h, bias_h, weight_v, bias_v, proj_weight, proj_bias)
    check_all(x, weights, shapes(x.shape[1], size("weight_h", weight_h, -1)))
    chosen = choose(backend, "striped_attention", x, *weights)
    if chosen == "reference":
        return reference(x, *weights)[0]
    return _op(*cast(chosen, [x], weights), chosen)[0]


def shapes(c: int, k: int) -> dict[str, tuple[int, ...]]:
    """Of the weights, by name, in order.  Raises ValueError for k even."""
    if k % 2 == 0:
        raise ValueError(f"weight_h must have shape (C, 1, 1, k) with k odd, got k = {k}")
    return {
        "qv_weight": (2 * c, c, 1, 1),
        "qv_bias": (2 * c,),
        "weight_h": (c, 1, 1, k),
        "bias_h": (c,),
        "weight_v": (c, 1, k, 1),
        "bias_v": (c,),
        "proj_weight": (c, c, 1, 1),
        "proj_bias": (c,),
    }


def reference(x: Tensor, *weights: Tensor) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    qv, qv_bias, weight_h, bias_h, weight_v, bias_v, proj, proj_bias = (t.to(x.dtype) for t in weights)
    q, v = F.gelu(F.conv2d(x, qv, qv_bias)).chunk(2, dim=1)
    (q,) = stripes(q, weight_h, bias_h, weight_v, bias_v, False)
    return (F.conv2d(q * v, proj, proj_bias),)


def _forward(*inputs: Tensor) -> tuple[Tensor, ...]:
    return _cpu.forward("striped_attention", inputs, kernel=inputs[3].shape[-1])


def _backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    *tensors, needs = inputs
    return _cpu.backward("striped_attention", grad, tensors, needs, kernel=tensors[3].shape[-1])


_op = register(
    "striped_attention(Tensor x, Tensor qv_weight, Tensor qv_bias, Tensor weight_h, Tensor bias_h,"
    " Tensor weight_v, Tensor bias_v, Tensor proj_weight, Tensor proj_bias)",
    reference=reference,
    forward=_forward,
    backward=_backward,
)
