"""Gated feed-forward, ``GELU(W2 (a * gate(g)))`` with a, g the halves of ``GELU(W1 x)``: forward and
backward.

Two launches forward: each 1x1 convolution takes what stands before it (LayerNorm; the gate) into its own
pass.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from seemore_fast.network.parameters import FFNWeights, Layer, flatten, unflatten

from . import depthwise, pointwise
from ._configs import needed
from .pointwise import NONE, Pre


class Gradients(NamedTuple):
    """norm: those of LayerNorm's weight and bias; empty where there is none."""

    x: Tensor
    weights: FFNWeights
    norm: tuple[Tensor, ...]


def forward(x: Tensor, *tensors: Tensor) -> tuple[Tensor]:
    """Inputs and result of `seemore_fast.ops.gated_ffn`'s operator."""
    return (feed_forward(x, unflatten(FFNWeights, tensors)),)


def backward(grad: Tensor, *inputs) -> list[Tensor]:
    x, *tensors, needs = inputs
    found = gradients(grad, x, unflatten(FFNWeights, tensors))
    return needed([found.x, *flatten(found.weights)], [x, *tensors], needs)


def feed_forward(x: Tensor, w: FFNWeights, norm: Pre = NONE, residual: Tensor | None = None) -> Tensor:
    """x: (N, C, H, W) -> (N, C, H, W).

    ``norm`` stands before it, and residual (N, C, H, W) is added.
    """
    c = x.shape[1]
    h = pointwise.convolve(x, *w.fn_1, norm, gelu=True)
    return pointwise.convolve(h[:, :c], *w.fn_2, _gate(h[:, c:], w), gelu=True, residual=residual)


def gradients(
    dy: Tensor, x: Tensor, w: FFNWeights, norm: Pre = NONE, skip: Tensor | None = None
) -> Gradients:
    """From dy (N, C, H, W); ``skip`` is added to that of x."""
    c = x.shape[1]
    h = pointwise.convolve(x, *w.fn_1, norm, gelu=True)
    dh = h.new_empty(h.shape)
    fn_2 = pointwise.gradients(dy, h[:, :c], *w.fn_2, _gate(h[:, c:], w), gelu=True, dx=dh[:, :c])
    _, *gate = depthwise.gradients(fn_2.other, h[:, c:], w.gate.weight, dx=dh[:, c:])
    fn_1 = pointwise.gradients(dh, x, *w.fn_1, norm, gelu=True, skip=skip)
    return Gradients(fn_1.x, FFNWeights(fn_1.layer, Layer(*gate), fn_2.layer), fn_1.norm)


def _gate(g: Tensor, w: FFNWeights) -> Pre:
    return Pre("gate", g, w.gate.weight.contiguous(), w.gate.bias)
