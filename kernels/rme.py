"""An RME block, ``y = x + proj(mixture(...LN x...))`` and then ``y + ffn(LN y)``: forward and backward.

Forward hands out what backward wants: the result of the 3x3 convolution, y, and the router's weights and
means. Everything else is computed again.
"""

from __future__ import annotations

from torch import Tensor

from seemore_fast.network.parameters import (
    Layer,
    RMEWeights,
    StripesWeights,
    convert,
    flatten,
    unflatten,
)

from . import (
    calibrate,
    conv3x3,
    gated_ffn,
    layer_norm2d,
    low_rank_experts,
    mix_experts,
    pointwise,
    striped_conv2d,
)
from ._configs import needed
from .pointwise import Pre


def forward(*inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Inputs and results (out, conv, y, weights, mean) of `seemore_fast.ops.rme`'s operator."""
    x, *tensors, ranks, topk, shuffle, recursive, eps = inputs
    w = unflatten(RMEWeights, tensors)
    conv = conv3x3.convolve(layer_norm2d.normalise(x, *w.norm_1, eps), *w.conv)
    local, key = _halves(conv, w, shuffle)
    value, context = (
        striped_conv2d.stripes(local, *w.stripes, True),
        calibrate.calibrate(key, w.calibrate, recursive),
    )
    mixed, weights, mean = mix_experts.mix(value, context, w.mixture, ranks, topk)
    y = pointwise.convolve(mixed, *w.proj, residual=x)
    out = gated_ffn.feed_forward(y, w.ffn, Pre("norm", None, *w.norm_2, eps), residual=y)
    return out, conv, y, weights, mean


def backward(grad: Tensor, conv: Tensor, y: Tensor, weights: Tensor, mean: Tensor, *inputs) -> list[Tensor]:
    x, *tensors, ranks, _, shuffle, recursive, eps, needs = inputs
    w, c = unflatten(RMEWeights, tensors), x.shape[1]
    ffn = gated_ffn.gradients(grad, y, w.ffn, Pre("norm", None, *w.norm_2, eps), skip=grad)

    local, key = _halves(conv, w, shuffle)
    between = striped_conv2d.first(local, *w.stripes[:2])
    value = striped_conv2d.second(between, *w.stripes[2:], True)
    levels = calibrate.pyramid(key, w.calibrate.agg, recursive)
    context = calibrate.resized(levels, w.calibrate)
    mixture = mix_experts.mixture(weights, ranks)
    mixed = low_rank_experts.experts(value, context, w.mixture.experts, mixture)
    proj = pointwise.gradients(ffn.x, mixed, *w.proj)
    mix = mix_experts.gradients(proj.x, weights, mean, value, context, w.mixture, ranks)

    dsplit = x.new_empty((x.shape[0], 2 * c, *x.shape[2:]))
    kept = dict(between=between, offset=mix.x_offset, dx=dsplit[:, :c])
    _, *stripes = striped_conv2d.gradients(mix.x, local, *w.stripes, True, **kept)
    _, of_context = calibrate.gradients(mix.k, levels, w.calibrate, dk=dsplit[:, c:])
    split = pointwise.gradients(dsplit, conv, *_split(w, shuffle), Pre("gelu"))
    normal = layer_norm2d.normalise(x, *w.norm_1, eps)
    dnormal, *of_conv = conv3x3.gradients(split.x, normal, w.conv.weight)
    dx, *norm_1 = layer_norm2d.gradients(dnormal, x, w.norm_1.weight, eps, skip=ffn.x)
    found = RMEWeights(
        norm_1=Layer(*norm_1),
        conv=Layer(*of_conv),
        split=convert(split.layer, _unshuffle) if shuffle else split.layer,
        stripes=StripesWeights(*stripes),
        calibrate=of_context,
        mixture=mix.weights,
        proj=proj.layer,
        norm_2=Layer(*ffn.norm),
        ffn=ffn.weights,
    )
    return needed([dx, *flatten(found)], [x, *tensors], needs)


def _halves(conv: Tensor, w: RMEWeights, shuffle: bool) -> tuple[Tensor, Tensor]:
    u = pointwise.convolve(conv, *_split(w, shuffle), Pre("gelu"))
    return u[:, : u.shape[1] // 2], u[:, u.shape[1] // 2 :]


def _split(w: RMEWeights, shuffle: bool) -> Layer:
    """The channel shuffle as an order of the rows of the 1x1 convolution before it."""
    return convert(w.split, _shuffle) if shuffle else w.split


def _shuffle(rows: Tensor) -> Tensor:
    return rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)


def _unshuffle(rows: Tensor) -> Tensor:
    return rows.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
