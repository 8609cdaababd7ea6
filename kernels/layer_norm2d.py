"""LayerNorm over the channels of each pixel: forward and backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _device as d
from ._configs import launch, needed, planes, sharing, split, tiles


def forward(*inputs) -> tuple[Tensor]:
    """Inputs and result of `seemore_fast.ops.layer_norm2d`'s operator."""
    return (normalise(*inputs),)


def backward(grad: Tensor, *inputs) -> list[Tensor]:
    *tensors, eps, needs = inputs
    return needed(gradients(grad, *tensors[:2], eps), tensors, needs)


def normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x: (N, C, H, W); weight, bias: (C,) -> (N, C, H, W)."""
    x = planes(x)
    n, c, h, w = x.shape
    out, many = x.new_empty(x.shape), tiles(h * w)
    args = (x, weight.contiguous(), bias.contiguous(), out, x.stride(0), h * w, eps)
    launch(_forward, "matrix", lambda config: (many(config), n), *args, C=c)
    return out


def gradients(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, *, skip: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """dy, x: (N, C, H, W) -> gradients of x (skip (N, C, H, W) added), weight (C,), bias (C,)."""
    x, dy = planes(x), planes(dy)
    skipped = x if skip is None else planes(skip)
    n, c, h, w = x.shape
    dx, shares = x.new_empty(x.shape), sharing(h * w, 64, n)
    partial = x.new_empty((n, shares, 2 * c), dtype=torch.float32)
    args = (dy, x, weight.contiguous(), skipped, dx, partial)
    strides = (dy.stride(0), x.stride(0), skipped.stride(0))
    grid = lambda config: (shares, n)
    launch(_backward, "matrix_gradient", grid, *args, *strides, h * w, eps, C=c, SKIP=skip is not None)
    dweight, dbias = split(partial.sum((0, 1)), (c,), (c,))
    return dx, dweight, dbias


@triton.jit
def _forward(
    x,  # [N, C, plane], images x_image apart
    weight,  # [C]
    bias,  # [C]
    out,  # [N, C, plane]
    x_image,
    plane,
    eps,
    C: tl.constexpr,
    TILE: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    pixels = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = pixels < plane
    normal, _ = d.normalise(d.load(x + image * x_image, plane, pixels, inside, C), inside, eps, C)
    result = d.affine(normal, d.load_vector(weight, C), d.load_vector(bias, C), C)
    d.store(out + image * plane * C, plane, pixels, inside, result, C)


@triton.jit
def _backward(
    dy,  # [N, C, plane], images dy_image apart
    x,  # [N, C, plane], images x_image apart
    weight,  # [C]
    skip,  # [N, C, plane], images skip_image apart, added if SKIP
    dx,  # [N, C, plane]
    partial,  # [N, programs, 2, C] sums for weight and bias
    dy_image,
    x_image,
    skip_image,
    plane,
    eps,
    C: tl.constexpr,
    SKIP: tl.constexpr,
    TILE: tl.constexpr,
):
    share, shares, image = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    scale = d.load_vector(weight, C)
    dscale, dshift = d.zeros(C), d.zeros(C)
    for tile in range(share, tl.cdiv(plane, TILE), shares):
        pixels = tile * TILE + tl.arange(0, TILE)
        inside = pixels < plane
        gradient = d.load(dy + image * dy_image, plane, pixels, inside, C)
        normal, rstd = d.normalise(d.load(x + image * x_image, plane, pixels, inside, C), inside, eps, C)
        dscale = d.add_columns(dscale, d.multiply(gradient, normal, C), C)
        dshift = d.add_columns(dshift, gradient, C)
        result = d.through_normalise(gradient, normal, rstd, scale, C)
        if SKIP:
            result = d.add(result, d.load(skip + image * skip_image, plane, pixels, inside, C), C)
        d.store(dx + image * plane * C, plane, pixels, inside, result, C)
    sums = partial + (image * shares + share) * (2 * C)
    d.store_vector(sums, dscale, C)
    d.store_vector(sums + C, dshift, C)
