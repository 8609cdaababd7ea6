"""Low-rank experts, ``A ((B x + b) * (C k + c)) + a``: forward and backward; alone or as a mixture.

In a mixture (`mix_experts`) rank r belongs to expert e = owner[r] and is scaled by the image's weight w_e, a
is the sum of w_e a_e, and x is added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seemore_fast.network.parameters import ExpertsWeights, Layer, convert, flatten, unflatten

from . import _device as d
from ._configs import dot, launch, needed, planes, sharing, split, tiles


class Mixture(NamedTuple):
    """weights: (N, E) float32; owner: (R,) int32."""

    weights: Tensor
    owner: Tensor


def forward(x: Tensor, k: Tensor, *tensors: Tensor) -> tuple[Tensor]:
    """Inputs and result of `seemore_fast.ops.low_rank_experts`' operator."""
    return (experts(x, k, unflatten(ExpertsWeights, tensors)),)


def backward(grad: Tensor, *inputs) -> list[Tensor]:
    x, k, *tensors, needs = inputs
    found = gradients(grad, x, k, unflatten(ExpertsWeights, tensors))
    a = Layer(found.a_weight, found.by_image[:, : x.shape[1]].sum(0))
    weights = flatten(ExpertsWeights(found.b, found.c, a))
    return needed([found.x, found.k, *weights], [x, k, *tensors], needs)


def experts(x: Tensor, k: Tensor, weights: ExpertsWeights, mixture: Mixture | None = None) -> Tensor:
    """x, k: (N, C, H, W) -> (N, C, H, W)."""
    x, k, m = planes(x), planes(k), convert(weights, Tensor.contiguous)
    n, c, h, w = x.shape
    out, many = x.new_empty(x.shape), tiles(h * w)
    grid = lambda config: (many(config), n)
    args = (x, k, *flatten(m), *_mixture(mixture), out, x.stride(0), k.stride(0), h * w)
    launch(_forward, "matrix", grid, *args, C=c, R=m.b.bias.numel(), E=_experts(mixture), **dot(x))
    return out


class Gradients(NamedTuple):
    """by_image: (N, C + R), for each image the sum of dy, and the derivative by the scale of each rank."""

    x: Tensor
    k: Tensor
    b: Layer
    c: Layer
    a_weight: Tensor
    by_image: Tensor


def gradients(
    dy: Tensor, x: Tensor, k: Tensor, weights: ExpertsWeights, mixture: Mixture | None = None
) -> Gradients:
    """From dy (N, C, H, W).  The products' factors go through memory: one launch adds up all three."""
    x, k, dy, m = planes(x), planes(k), planes(dy), convert(weights, Tensor.contiguous)
    n, c, h, w = x.shape
    rank, shares = m.b.bias.numel(), sharing(h * w, 64, n)
    dx, dk, ranks = x.new_empty(x.shape), x.new_empty(x.shape), x.new_empty((n, 3 * rank, h, w))
    partial = x.new_empty((n, shares, c + rank), dtype=torch.float32)
    args = (dy, x, k, *flatten(m), *_mixture(mixture), dx, dk, ranks, partial)
    strides = (dy.stride(0), x.stride(0), k.stride(0))
    grid = lambda config: (shares, n)
    constants = dict(C=c, R=rank, E=_experts(mixture))
    launch(_backward, "matrix_gradient", grid, *args, *strides, h * w, **constants, **dot(x))
    sums = x.new_empty((n, shares, 3 * rank * (c + 1)), dtype=torch.float32)
    constants = dict(C=c, R=rank)
    args = (ranks, dy, x, k, sums, *strides, h * w)
    launch(_sums, "matrix_gradient", lambda _: (3, shares, n), *args, **constants, **dot(x))
    db, dc, da, *biases = split(sums.sum((0, 1)), *(((rank, c),) * 3), *(((rank,),) * 3))
    layers = (
        Layer(matrix.view(m.b.weight.shape), bias) for matrix, bias in zip((db, dc), biases, strict=False)
    )
    a_weight = da.t().contiguous().view(m.a.weight.shape)
    return Gradients(dx, dk, *layers, a_weight, partial.sum(1))


def _mixture(mixture: Mixture | None) -> tuple[Tensor | None, Tensor | None]:
    return mixture or (None, None)


def _experts(mixture: Mixture | None) -> int:
    return mixture.weights.shape[1] if mixture else 0


@triton.jit
def _scales(weights, owner, image, R: tl.constexpr, E: tl.constexpr):
    """Each rank's weight in this image: a tuple of [piece], 1 without a mixture."""
    out = ()
    for i in tl.static_range(d.count(R)):
        r = d.channels(R, i)
        if E > 0:
            expert = tl.load(owner + r, mask=r < R, other=0)
            out = out + (tl.load(weights + image * E + expert, mask=r < R, other=0.0),)
        else:
            out = out + (tl.full((d.size(R, i),), 1.0, tl.float32),)
    return out


@triton.jit
def _scale(tile, scales, R: tl.constexpr):
    """tile * scales; where the scale is 0, 0 whatever an expert that was not selected holds."""
    out = ()
    for i in tl.static_range(d.count(R)):
        factor = scales[i][None, :]
        out = out + (tl.where(factor == 0, 0.0, tile[i] * factor),)
    return out


@triton.jit
def _forward(
    x,  # [N, C, plane], images x_image apart
    k,  # [N, C, plane], images k_image apart
    b_weight,  # [R, C]
    b_bias,  # [R]
    c_weight,  # [R, C]
    c_bias,  # [R]
    a_weight,  # [C, R]
    a_bias,  # [C], in a mixture [E, C]
    weights,  # [N, E] float32, in a mixture
    owner,  # [R] int32, in a mixture
    out,  # [N, C, plane]
    x_image,
    k_image,
    plane,
    C: tl.constexpr,
    R: tl.constexpr,
    E: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    pixels = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = pixels < plane
    bw, cw = d.load_matrix(b_weight, C, 1, R, C, DOT), d.load_matrix(c_weight, C, 1, R, C, DOT)
    aw = d.load_matrix(a_weight, R, 1, C, R, DOT)
    value = d.load(x + image * x_image, plane, pixels, inside, C)
    key = d.load(k + image * k_image, plane, pixels, inside, C)
    b = d.add_bias(d.linear(value, bw, R, C, DOT, PRECISION), b_bias, R)
    c = d.add_bias(d.linear(key, cw, R, C, DOT, PRECISION), c_bias, R)
    product = _scale(d.multiply(b, c, R), _scales(weights, owner, image, R, E), R)
    result = d.linear(product, aw, C, R, DOT, PRECISION)
    if E > 0:
        result = d.add(result, value, C)
        for e in tl.static_range(E):
            share = tl.load(weights + image * E + e)
            bias = d.load_vector(a_bias + e * C, C)
            shift = ()
            for i in tl.static_range(d.count(C)):
                shift = shift + (tl.where(share == 0, 0.0, share * bias[i])[None, :],)
            result = d.add(result, shift, C)
    else:
        result = d.add_bias(result, a_bias, C)
    d.store(out + image * plane * C, plane, pixels, inside, result, C)


@triton.jit
def _backward(
    dy,  # [N, C, plane], images dy_image apart
    x,  # [N, C, plane], images x_image apart
    k,  # [N, C, plane], images k_image apart
    b_weight,  # [R, C]
    b_bias,  # [R]
    c_weight,  # [R, C]
    c_bias,  # [R]
    a_weight,  # [C, R]
    a_bias,  # unused: the result's shift
    weights,  # [N, E] float32, in a mixture
    owner,  # [R] int32, in a mixture
    dx,  # [N, C, plane]
    dk,  # [N, C, plane]
    ranks,  # [N, 3, R, plane]: gradients of B x + b and C k + c, and their scaled product
    partial,  # [N, programs, C + R] sums of dy, and of the derivative by each rank's scale
    dy_image,
    x_image,
    k_image,
    plane,
    C: tl.constexpr,
    R: tl.constexpr,
    E: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    share, shares, image = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    bw, cw = d.load_matrix(b_weight, C, 1, R, C, DOT), d.load_matrix(c_weight, C, 1, R, C, DOT)
    aw = d.load_matrix(a_weight, R, 1, C, R, DOT)
    scales = _scales(weights, owner, image, R, E)
    dscale, dshift = d.zeros(R), d.zeros(C)
    # Each from ``image``, which has 64 bits: `2 * R * plane` would have 32.
    db_out, dc_out = ranks + image * 3 * R * plane, ranks + (image * 3 + 1) * R * plane
    product_out = ranks + (image * 3 + 2) * R * plane
    for tile in range(share, tl.cdiv(plane, TILE), shares):
        pixels = tile * TILE + tl.arange(0, TILE)
        inside = pixels < plane
        gradient = d.load(dy + image * dy_image, plane, pixels, inside, C)
        value = d.load(x + image * x_image, plane, pixels, inside, C)
        key = d.load(k + image * k_image, plane, pixels, inside, C)
        b = d.add_bias(d.linear(value, bw, R, C, DOT, PRECISION), b_bias, R)
        c = d.add_bias(d.linear(key, cw, R, C, DOT, PRECISION), c_bias, R)
        product = d.multiply(b, c, R)
        d.store(product_out, plane, pixels, inside, _scale(product, scales, R), R)
        dshift = d.add_columns(dshift, gradient, C)
        inner = d.linear_back(gradient, aw, C, R, DOT, PRECISION)  # by the scaled product
        dscale = d.add_columns(dscale, d.multiply(inner, product, R), R)
        inner = _scale(inner, scales, R)
        db, dc = d.multiply(inner, c, R), d.multiply(inner, b, R)
        d.store(db_out, plane, pixels, inside, db, R)
        d.store(dc_out, plane, pixels, inside, dc, R)
        result = d.linear_back(db, bw, R, C, DOT, PRECISION)
        if E > 0:
            result = d.add(result, gradient, C)
        d.store(dx + image * plane * C, plane, pixels, inside, result, C)
        result = d.linear_back(dc, cw, R, C, DOT, PRECISION)
        d.store(dk + image * plane * C, plane, pixels, inside, result, C)
    sums = partial + (image * shares + share) * (C + R)
    d.store_vector(sums, dshift, C)
    d.store_vector(sums + C, dscale, R)


@triton.jit
def _sums(
    ranks,  # [N, 3, R, plane]: as `_backward` leaves them
    dy,  # [N, C, plane], images dy_image apart
    x,  # [N, C, plane], images x_image apart
    k,  # [N, C, plane], images k_image apart
    sums,  # [N, programs, 3 R C + 3 R]: products with x, k and dy, then the sums of ranks
    dy_image,
    x_image,
    k_image,
    plane,
    C: tl.constexpr,
    R: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    which, share, shares = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    image = tl.program_id(2).to(tl.int64)
    factors = ranks + (image * 3 + which) * R * plane
    source = dy + image * dy_image
    if which == 0:
        source = x + image * x_image
    elif which == 1:
        source = k + image * k_image
    matrix, vector = d.zero_matrix(R, C), d.zeros(R)
    for tile in range(share, tl.cdiv(plane, TILE), shares):
        pixels = tile * TILE + tl.arange(0, TILE)
        inside = pixels < plane
        left = d.load(factors, plane, pixels, inside, R)
        matrix = d.outer(matrix, left, d.load(source, plane, pixels, inside, C), R, C, DOT, PRECISION)
        vector = d.add_columns(vector, left, R)
    sums += (image * shares + share) * 3 * R * (C + 1)
    d.store_matrix(sums + which * R * C, matrix, R, C)
    d.store_vector(sums + 3 * R * C + which * R, vector, R)
