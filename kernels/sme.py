"""An SME block, ``y = x + attention(LN x)`` and then ``y + ffn(LN y)``: 6 launches forward.

Forward hands out y, which backward wants; everything else is computed again.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from . import gated_ffn, striped_attention
from ._configs import asked
from .pointwise import Pre


class Parameters(NamedTuple):
    """norms: weight, bias (C,); attention, ffn: the `Parameters` of those modules."""

    norm_1: tuple[Tensor, ...]
    attention: tuple[Tensor, ...]
    norm_2: tuple[Tensor, ...]
    ffn: tuple[Tensor, ...]


def forward(*inputs) -> tuple[Tensor, Tensor]:
    """Inputs and results of `seemore_fast.ops.sme`'s operator."""
    x, *tensors, eps = inputs
    p = _parts(tensors)
    y = striped_attention.attention(x, *p.attention, norm=Pre("norm", None, *p.norm_1, eps), residual=x)
    return gated_ffn.feed_forward(y, *p.ffn, norm=Pre("norm", None, *p.norm_2, eps), residual=y), y


def backward(grad: Tensor, y: Tensor, *inputs) -> list[Tensor]:
    x, *tensors, eps, needs = inputs
    p = _parts(tensors)
    norm_1, norm_2 = Pre("norm", None, *p.norm_1, eps), Pre("norm", None, *p.norm_2, eps)
    dy, *ffn = gated_ffn.gradients(grad, y, *p.ffn, norm=norm_2, skip=grad)
    dx, *attention = striped_attention.gradients(dy, x, *p.attention, norm=norm_1, skip=dy)
    every = [dx, *attention[8:], *attention[:8], *ffn[6:], *ffn[:6]]
    return asked(every, [x, *tensors], needs)


def _parts(tensors: list[Tensor]) -> Parameters:
    return Parameters(tuple(tensors[:2]), tuple(tensors[2:10]), tuple(tensors[10:12]), tuple(tensors[12:]))
