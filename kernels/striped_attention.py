"""SME's modulation, ``proj(stripes(q) * v)`` q and v the halves of ``GELU(to_qv x)``."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from seemore_fast.network.parameters import AttentionWeights, StripesWeights, flatten, unflatten

from . import pointwise, striped_conv2d
from ._configs import needed
from .pointwise import NONE, Pre


class Gradients(NamedTuple):
    """norm: those of LayerNorm's weight and bias; empty where there is none."""

    x: Tensor
    weights: AttentionWeights
    norm: tuple[Tensor, ...]


def forward(x: Tensor, *tensors: Tensor) -> tuple[Tensor]:
    """Inputs and result of `seemore_fast.ops.striped_attention`'s operator."""
    return (attention(x, unflatten(AttentionWeights, tensors)),)


def backward(grad: Tensor, *inputs) -> list[Tensor]:
    x, *tensors, needs = inputs
    found = gradients(grad, x, unflatten(AttentionWeights, tensors))
    return needed([found.x, *flatten(found.weights)], [x, *tensors], needs)


def attention(x: Tensor, w: AttentionWeights, norm: Pre = NONE, residual: Tensor | None = None) -> Tensor:
    """x: (N, C, H, W) -> (N, C, H, W).

    ``norm`` stands before it, and residual (N, C, H, W) is added.
    """
    c = x.shape[1]
    qv = pointwise.convolve(x, *w.qv, norm, gelu=True)
    s = striped_conv2d.stripes(qv[:, :c], *w.stripes, False)
    return pointwise.convolve(s, *w.proj, Pre("product", qv[:, c:]), residual=residual)


def gradients(
    dy: Tensor, x: Tensor, w: AttentionWeights, norm: Pre = NONE, skip: Tensor | None = None
) -> Gradients:
    """From dy (N, C, H, W); ``skip`` is added to that of x."""
    c = x.shape[1]
    qv = pointwise.convolve(x, *w.qv, norm, gelu=True)
    q, v, dqv = qv[:, :c], qv[:, c:], qv.new_empty(qv.shape)
    between = striped_conv2d.first(q, *w.stripes[:2])
    s = striped_conv2d.second(between, *w.stripes[2:], False)
    proj = pointwise.gradients(dy, s, *w.proj, Pre("product", v), dother=dqv[:, c:])
    kept = dict(between=between, dx=dqv[:, :c])
    _, *stripes = striped_conv2d.gradients(proj.x, q, *w.stripes, False, **kept)
    first = pointwise.gradients(dqv, x, *w.qv, norm, gelu=True, skip=skip)
    return Gradients(first.x, AttentionWeights(first.layer, StripesWeights(*stripes), proj.layer), first.norm)
