"""Gated feed-forward, the second half of both blocks (paper figure 3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.backends.choice import Backend
from seemore_fast.network.parameters import FFNWeights
from seemore_fast.ops._operator import Operator
from seemore_fast.ops._register import register


def gated_ffn(
    x: Tensor,
    fn_1_weight: Tensor,
    fn_1_bias: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    fn_2_weight: Tensor,
    fn_2_bias: Tensor,
    *,
    backend: Backend = None,
) -> Tensor:
    """``GELU(fn_2 (a * gate(g)))`` with a, g the halves of ``GELU(fn_1 x)``; gate is a depthwise 3x3.

    x: (N, C, H, W), floating; fn_1_weight: (2C, C, 1, 1); fn_1_bias: (2C,); gate_weight: (C, 1, 3, 3);
    fn_2_weight: (C, C, 1, 1); gate_bias, fn_2_bias: (C,).  Returns (N, C, H, W).

    Raises ValueError (shape, device), TypeError (dtype) or BackendError; see :mod:`seemore_fast.ops`.
    """
    weights = (fn_1_weight, fn_1_bias, gate_weight, gate_bias, fn_2_weight, fn_2_bias)
    return _run([x], weights, backend=backend)[0]


def reference(x: Tensor, *weights: Tensor) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    fn_1, fn_1_bias, gate, gate_bias, fn_2, fn_2_bias = (t.to(x.dtype) for t in weights)
    a, g = F.gelu(F.conv2d(x, fn_1, fn_1_bias)).chunk(2, dim=1)
    g = F.conv2d(g, gate, gate_bias, padding=1, groups=x.shape[1])
    return (F.gelu(F.conv2d(a * g, fn_2, fn_2_bias)),)


_run = register(Operator("gated_ffn", ("x",), FFNWeights, {}, reference))
