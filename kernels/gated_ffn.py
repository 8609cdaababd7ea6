"""Gated feed-forward, ``GELU(W2 (a * gate(g)))`` with a, g the halves of ``GELU(W1 x)``: forward and
backward.

Two launches forward: each 1x1 convolution takes what stands before it (LayerNorm; the gate) into its own
pass.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from . import depthwise, pointwise
from ._configs import asked
from .pointwise import NONE, Pre


class Parameters(NamedTuple):
    """fn_1_weight: (2 C, C, 1, 1); gate_weight: (C, 1, 3, 3); fn_2_weight: (C, C, 1, 1); biases."""

    fn_1_weight: Tensor
    fn_1_bias: Tensor
    gate_weight: Tensor
    gate_bias: Tensor
    fn_2_weight: Tensor
    fn_2_bias: Tensor


def forward(*inputs: Tensor) -> tuple[Tensor]:
    """Inputs and result of `seemore_fast.ops.gated_ffn`'s operator."""
    return (feed_forward(*inputs),)


def backward(grad: Tensor, *inputs) -> list[Tensor]:
    *tensors, needs = inputs
    return asked(gradients(grad, *tensors), tensors, needs)


def feed_forward(x: Tensor, *parameters: Tensor, norm: Pre = NONE, residual: Tensor | None = None) -> Tensor:
    """x: (N, C, H, W); parameters as in `Parameters` -> (N, C, H, W).

    ``norm`` stands before it, and residual (N, C, H, W) is added.
    """
    p, c = Parameters(*parameters), x.shape[1]
    h = pointwise.convolve(x, p.fn_1_weight, p.fn_1_bias, norm, gelu=True)
    gate = _gate(h[:, c:], p)
    return pointwise.convolve(h[:, :c], p.fn_2_weight, p.fn_2_bias, gate, gelu=True, residual=residual)


def gradients(
    dy: Tensor, x: Tensor, *parameters: Tensor, norm: Pre = NONE, skip: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Gradients of x (skip added), the six parameters, and norm's two if it has any."""
    p, c = Parameters(*parameters), x.shape[1]
    h = pointwise.convolve(x, p.fn_1_weight, p.fn_1_bias, norm, gelu=True)
    dh = h.new_empty(h.shape)
    second = pointwise.gradients(
        dy, h[:, :c], p.fn_2_weight, p.fn_2_bias, _gate(h[:, c:], p), gelu=True, dx=dh[:, :c]
    )
    _, dgate_weight, dgate_bias = depthwise.gradients(second.other, h[:, c:], p.gate_weight, dx=dh[:, c:])
    first = pointwise.gradients(dh, x, p.fn_1_weight, p.fn_1_bias, norm, gelu=True, skip=skip)
    gate = (dgate_weight, dgate_bias)
    return first.x, first.weight, first.bias, *gate, second.weight, second.bias, *first.norm


def _gate(g: Tensor, p: Parameters) -> Pre:
    return Pre("gate", g, p.gate_weight.contiguous(), p.gate_bias)
