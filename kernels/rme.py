"""An RME block, ``y = x + proj(mixture(...LN x...))`` and then ``y + ffn(LN y)``: forward and backward.

Forward hands out what backward wants: the result of the 3x3 convolution, y, and the router's weights and
means. Everything else is computed again.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

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
from ._configs import asked
from .pointwise import Pre


class Parameters(NamedTuple):
    """norms: weight, bias (C,); conv: (C, C, 3, 3), (C,); split: (2 C, C, 1, 1), (2 C,); stripes as in
    `striped_conv2d`; context as in `calibrate`; router: (E, C); experts: the six `Matrices`; proj: (C, C, 1,
    1),
    (C,); ffn as in `gated_ffn`."""

    norm_1: tuple[Tensor, ...]
    conv: tuple[Tensor, ...]
    split: tuple[Tensor, ...]
    stripes: tuple[Tensor, ...]
    context: tuple[Tensor, ...]
    router: tuple[Tensor, ...]
    experts: tuple[Tensor, ...]
    proj: tuple[Tensor, ...]
    norm_2: tuple[Tensor, ...]
    ffn: tuple[Tensor, ...]


_SIZES = (2, 2, 2, 4, 6, 1, 6, 2, 2, 6)


def forward(*inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Inputs and results (out, conv, y, weights, mean) of `seemore_fast.ops.rme`'s operator."""
    x, *tensors, ranks, topk, shuffle, recursive, eps = inputs
    p = _parts(tensors)
    conv = conv3x3.convolve(layer_norm2d.normalise(x, *p.norm_1, eps), *p.conv)
    local, key = _halves(conv, p, shuffle)
    value, context = _branches(local, key, p, recursive)
    mixed, weights, mean = mix_experts.forward(value, context, *p.router, *p.experts, ranks, topk)
    y = pointwise.convolve(mixed, *p.proj, residual=x)
    out = gated_ffn.feed_forward(y, *p.ffn, norm=Pre("norm", None, *p.norm_2, eps), residual=y)
    return out, conv, y, weights, mean


def backward(grad: Tensor, conv: Tensor, y: Tensor, weights: Tensor, mean: Tensor, *inputs) -> list[Tensor]:
    x, *tensors, ranks, _, shuffle, recursive, eps, needs = inputs
    p, c = _parts(tensors), x.shape[1]
    dy, *ffn = gated_ffn.gradients(grad, y, *p.ffn, norm=Pre("norm", None, *p.norm_2, eps), skip=grad)

    local, key = _halves(conv, p, shuffle)
    value, context = _branches(local, key, p, recursive)
    mixture = mix_experts.mixture(weights, ranks)
    mixed = low_rank_experts.experts(value, context, *p.experts, mixture=mixture)
    proj = pointwise.gradients(dy, mixed, *p.proj)
    saved, router = (weights, mean), (*p.router, *p.experts, ranks)
    mix = mix_experts.gradients(proj.x, *saved, value, context, *router)

    dsplit = x.new_empty((x.shape[0], 2 * c, *x.shape[2:]))
    offset, dlocal, dkey = mix.x_offset, dsplit[:, :c], dsplit[:, c:]
    _, *stripes = striped_conv2d.gradients(mix.x, local, *p.stripes, True, offset=offset, dx=dlocal)
    _, *context = calibrate.gradients(mix.k, key, *p.context, recursive, dk=dkey)
    split = pointwise.gradients(dsplit, conv, *_shuffled(p, shuffle), Pre("gelu"))
    rows = (split.weight, split.bias)
    normal = layer_norm2d.normalise(x, *p.norm_1, eps)
    dnormal, *of_conv = conv3x3.gradients(split.x, normal, p.conv[0])
    dx, *norm_1 = layer_norm2d.gradients(dnormal, x, p.norm_1[0], eps, skip=dy)
    parts = Parameters(
        norm_1=tuple(norm_1),
        conv=tuple(of_conv),
        split=tuple(map(_unshuffle, rows)) if shuffle else rows,
        stripes=tuple(stripes),
        context=tuple(context),
        router=(mix.router_weight,),
        experts=mix.matrices,
        proj=(proj.weight, proj.bias),
        norm_2=tuple(ffn[6:]),
        ffn=tuple(ffn[:6]),
    )
    return asked([dx, *(gradient for part in parts for gradient in part)], [x, *tensors], needs)


def _parts(tensors: list[Tensor]) -> Parameters:
    rest = iter(tensors)
    return Parameters(*(tuple(next(rest) for _ in range(many)) for many in _SIZES))


def _halves(conv: Tensor, p: Parameters, shuffle: bool) -> tuple[Tensor, Tensor]:
    u = pointwise.convolve(conv, *_shuffled(p, shuffle), Pre("gelu"))
    return u[:, : u.shape[1] // 2], u[:, u.shape[1] // 2 :]


def _branches(local: Tensor, key: Tensor, p: Parameters, recursive: int) -> tuple[Tensor, Tensor]:
    """What the experts multiply."""
    return striped_conv2d.stripes(local, *p.stripes, True), calibrate.calibrate(key, *p.context, recursive)


def _shuffled(p: Parameters, shuffle: bool) -> tuple[Tensor, ...]:
    """The channel shuffle as an order of the rows of the 1x1 convolution before it."""
    return (
        tuple(rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1) for rows in p.split)
        if shuffle
        else p.split
    )


def _unshuffle(rows: Tensor) -> Tensor:
    return rows.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
