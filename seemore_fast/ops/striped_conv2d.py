"""Striped convolution: depthwise 1xk, then depthwise kx1, then GELU if asked (paper section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.backends.choice import Backend
from seemore_fast.network.parameters import StripesWeights
from seemore_fast.ops._operator import Operator
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
    return _run([x], (weight_h, bias_h, weight_v, bias_v), gelu, backend=backend)[0]


def reference(
    x: Tensor, weight_h: Tensor, bias_h: Tensor, weight_v: Tensor, bias_v: Tensor, gelu: bool
) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    weight_h, bias_h, weight_v, bias_v = (t.to(x.dtype) for t in (weight_h, bias_h, weight_v, bias_v))
    c, pad = x.shape[1], weight_h.shape[-1] // 2
    out = F.conv2d(x, weight_h, bias_h, padding=(0, pad), groups=c)
    out = F.conv2d(out, weight_v, bias_v, padding=(pad, 0), groups=c)
    return (F.gelu(out) if gelu else out,)


_run = register(Operator("striped_conv2d", ("x",), StripesWeights, {"gelu": "bool"}, reference))
