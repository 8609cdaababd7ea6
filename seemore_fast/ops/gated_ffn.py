"""Gated feed-forward, the second half of both blocks (paper figure 3)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.ops import _cpu
from seemore_fast.ops._common import Backend, cast, check_all, check_image, choose
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
    check_image("x", x)
    weights = (fn_1_weight, fn_1_bias, gate_weight, gate_bias, fn_2_weight, fn_2_bias)
    check_all(x, weights, shapes(x.shape[1]))
    chosen = choose(backend, "gated_ffn", x, *weights)
    if chosen == "reference":
        return reference(x, *weights)[0]
    return _op(*cast(chosen, [x], weights), chosen)[0]


def shapes(c: int) -> dict[str, tuple[int, ...]]:
    """Of the weights, by name, in order."""
    return {
        "fn_1_weight": (2 * c, c, 1, 1),
        "fn_1_bias": (2 * c,),
        "gate_weight": (c, 1, 3, 3),
        "gate_bias": (c,),
        "fn_2_weight": (c, c, 1, 1),
        "fn_2_bias": (c,),
    }


def reference(x: Tensor, *weights: Tensor) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    fn_1, fn_1_bias, gate, gate_bias, fn_2, fn_2_bias = (t.to(x.dtype) for t in weights)
    a, g = F.gelu(F.conv2d(x, fn_1, fn_1_bias)).chunk(2, dim=1)
    g = F.conv2d(g, gate, gate_bias, padding=1, groups=x.shape[1])
    return (F.gelu(F.conv2d(a * g, fn_2, fn_2_bias)),)


def _forward(*inputs: Tensor) -> tuple[Tensor, ...]:
    return _cpu.forward("gated_ffn", inputs)


def _backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    *tensors, needs = inputs
    return _cpu.backward("gated_ffn", grad, tensors, needs)


_op = register(
    "gated_ffn(Tensor x, Tensor fn_1_weight, Tensor fn_1_bias, Tensor gate_weight, Tensor gate_bias,"
    " Tensor fn_2_weight, Tensor fn_2_bias)",
    reference=reference,
    forward=_forward,
    backward=_backward,
)
