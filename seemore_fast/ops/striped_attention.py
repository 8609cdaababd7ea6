"""Spatial enhancement by striped convolutions, the first half of SME (paper section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.backends.choice import Backend
from seemore_fast.network.parameters import AttentionWeights, unflatten
from seemore_fast.ops._operator import Operator
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
    weights = (qv_weight, qv_bias, weight_h, bias_h, weight_v, bias_v, proj_weight, proj_bias)
    return _run([x], weights, backend=backend)[0]


def reference(x: Tensor, *weights: Tensor) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    w = unflatten(AttentionWeights, [weight.to(x.dtype) for weight in weights])
    q, v = F.gelu(F.conv2d(x, *w.qv)).chunk(2, dim=1)
    (q,) = stripes(q, *w.stripes, False)
    return (F.conv2d(q * v, *w.proj),)


_run = register(Operator("striped_attention", ("x",), AttentionWeights, {}, reference))
