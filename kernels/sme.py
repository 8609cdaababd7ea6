"""An SME block, ``y = x + attention(LN x)`` and then ``y + ffn(LN y)``: 6 launches forward.

Forward hands out y, which backward wants; everything else is computed again.
"""

from __future__ import annotations

from torch import Tensor

from seemore_fast.network.parameters import Layer, SMEWeights, flatten, unflatten

from . import gated_ffn, striped_attention
from ._configs import needed
from .pointwise import Pre


def forward(*inputs) -> tuple[Tensor, Tensor]:
    """Inputs and results of `seemore_fast.ops.sme`'s operator."""
    x, *tensors, eps = inputs
    w = unflatten(SMEWeights, tensors)
    y = striped_attention.attention(x, w.attention, Pre("norm", None, *w.norm_1, eps), residual=x)
    return gated_ffn.feed_forward(y, w.ffn, Pre("norm", None, *w.norm_2, eps), residual=y), y


def backward(grad: Tensor, y: Tensor, *inputs) -> list[Tensor]:
    x, *tensors, eps, needs = inputs
    w = unflatten(SMEWeights, tensors)
    ffn = gated_ffn.gradients(grad, y, w.ffn, Pre("norm", None, *w.norm_2, eps), skip=grad)
    norm_1 = Pre("norm", None, *w.norm_1, eps)
    attention = striped_attention.gradients(ffn.x, x, w.attention, norm_1, skip=ffn.x)
    found = SMEWeights(Layer(*attention.norm), attention.weights, Layer(*ffn.norm), ffn.weights)
    return needed([attention.x, *flatten(found)], [x, *tensors], needs)
