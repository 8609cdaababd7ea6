"""SME's modulation, ``proj(stripes(q) * v)`` q and v the halves of ``GELU(to_qv x)``."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from . import pointwise, striped_conv2d
from ._configs import asked
from .pointwise import NONE, Pre


class Parameters(NamedTuple):
    """qv_weight: (2 C, C, 1, 1); stripes as in `striped_conv2d`; proj_weight: (C, C, 1, 1); biases."""

    qv_weight: Tensor
    qv_bias: Tensor
    weight_h: Tensor
    bias_h: Tensor
    weight_v: Tensor
    bias_v: Tensor
    proj_weight: Tensor
    proj_bias: Tensor


def forward(*inputs: Tensor) -> tuple[Tensor]:
    """Inputs and result of `seemore_fast.ops.striped_attention`'s operator."""
    return (attention(*inputs),)


def backward(grad: Tensor, *inputs) -> list[Tensor]:
    *tensors, needs = inputs
    return asked(gradients(grad, *tensors), tensors, needs)


def attention(x: Tensor, *parameters: Tensor, norm: Pre = NONE, residual: Tensor | None = None) -> Tensor:
    """x: (N, C, H, W); parameters as in `Parameters` -> (N, C, H, W).

    ``norm`` stands before it, and residual (N, C, H, W) is added.
    """
    p, c = Parameters(*parameters), x.shape[1]
    qv = pointwise.convolve(x, p.qv_weight, p.qv_bias, norm, gelu=True)
    s = striped_conv2d.stripes(qv[:, :c], *p[2:6], False)
    return pointwise.convolve(s, p.proj_weight, p.proj_bias, Pre("product", qv[:, c:]), residual=residual)


def gradients(
    dy: Tensor, x: Tensor, *parameters: Tensor, norm: Pre = NONE, skip: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Gradients of x (skip added), the eight parameters, and norm's two if it has any."""
    p, c = Parameters(*parameters), x.shape[1]
    qv = pointwise.convolve(x, p.qv_weight, p.qv_bias, norm, gelu=True)
    q, v, dqv = qv[:, :c], qv[:, c:], qv.new_empty(qv.shape)
    s = striped_conv2d.stripes(q, *p[2:6], False)
    proj = pointwise.gradients(dy, s, p.proj_weight, p.proj_bias, Pre("product", v), dother=dqv[:, c:])
    _, *of_stripes = striped_conv2d.gradients(proj.x, q, *p[2:6], False, dx=dqv[:, :c])
    first = pointwise.gradients(dqv, x, p.qv_weight, p.qv_bias, norm, gelu=True, skip=skip)
    return first.x, first.weight, first.bias, *of_stripes, proj.weight, proj.bias, *first.norm
