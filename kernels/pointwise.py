"""A 1x1 convolution with what stands before and behind it in the network, in one pass: forward and backward.

y = act(W m + b) + residual, where m is one of (PRE)

* ``none``: x
* ``norm``: LayerNorm of x over the channels; parameters: its weight and bias
* ``gelu``: GELU(x)
* ``product``: x * other
* ``depthwise``: depthwise 3x3 convolution of x; parameters: its weight and bias
* ``gate``: x * depthwise 3x3 convolution of other; parameters as before

and act is GELU or nothing.  Nothing is saved: backward computes m and W m + b again, and leaves m and
the gradient of W m + b in memory for `dense_weights`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seemore_fast.network.parameters import Layer

from . import _device as d
from ._configs import dot, launch, planes, sharing, split, tiles
from .dense_weights import weight_gradients


class Pre(NamedTuple):
    """What stands before the convolution; ``other`` is (N, C, H, W), the parameters as PRE says."""

    kind: str = "none"
    other: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 0.0


NONE = Pre()


class Gradients(NamedTuple):
    """Of `gradients`.  After ``depthwise`` and ``gate``, the convolved input's is that of the convolution's
    result.

    norm: those of LayerNorm's weight and bias; empty where there is none.
    """

    x: Tensor
    other: Tensor | None
    weight: Tensor
    bias: Tensor
    norm: tuple[Tensor, ...]

    @property
    def layer(self) -> Layer:
        return Layer(self.weight, self.bias)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    pre: Pre = NONE,
    *,
    gelu: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """x: (N, C, H, W); weight: (O, C), maybe with two sides of 1 behind; bias: (O,); residual: (N, O, H, W).

    Returns (N, O, H, W), contiguous.
    """
    x = planes(x)
    n, c, h, w = x.shape
    out = x.new_empty((n, weight.shape[0], h, w))
    other = x if pre.other is None else planes(pre.other)
    skip = out if residual is None else planes(residual)
    many = tiles(h * w)
    args = (x, other, pre.weight, pre.bias, weight.contiguous(), bias, skip, out)
    strides = (x.stride(0), other.stride(0), skip.stride(0))
    constants = dict(CI=c, CO=weight.shape[0], PRE=pre.kind, GELU=gelu, RESIDUAL=residual is not None)
    grid = lambda config: (many(config), n)
    launch(_forward, "matrix", grid, *args, *strides, h, w, pre.eps, **constants, **dot(x))
    return out


def gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    pre: Pre = NONE,
    *,
    gelu: bool = False,
    skip: Tensor | None = None,
    dx: Tensor | None = None,
    dother: Tensor | None = None,
) -> Gradients:
    """Gradients from dy (N, O, H, W); ``skip`` (N, C, H, W) is added to that of x.

    dx and dother (N, C, H, W), parts of a larger tensor perhaps, receive the gradients of x and other.
    """
    x, dy = planes(x), planes(dy)
    n, c, h, w = x.shape
    co, two, norm = weight.shape[0], pre.kind in ("product", "gate"), pre.kind == "norm"
    dx = x.new_empty(x.shape) if dx is None else dx
    other = planes(pre.other) if two else x
    dother = (x.new_empty(x.shape) if dother is None else dother) if two else None
    skipped = x if skip is None else planes(skip)
    shares = sharing(h * w, 64, n)
    partial = x.new_empty((n, shares, 2 * c if norm else 0), dtype=torch.float32)
    m = x if pre.kind == "none" else x.new_empty(x.shape)
    dz = x.new_empty(dy.shape) if gelu else dy
    args = (
        dy,
        x,
        other,
        pre.weight,
        pre.bias,
        weight.contiguous(),
        bias,
        skipped,
        dx,
        dother,
        m,
        dz,
        partial,
    )
    strides = [t.stride(0) for t in (dy, x, other, skipped, dx, dx if dother is None else dother)]
    constants = dict(CI=c, CO=co, PRE=pre.kind, GELU=gelu, SKIP=skip is not None)
    grid = lambda config: (shares, n)
    launch(_backward, "matrix_gradient", grid, *args, *strides, h, w, pre.eps, **constants, **dot(x))
    dweight, dbias = weight_gradients(dz, m, weight)
    sums = split(partial.sum((0, 1)), (c,), (c,)) if norm else ()
    return Gradients(dx, dother, dweight, dbias, tuple(sums))


@triton.jit
def _before(x, other, weight, bias, pixels, inside, H, W, eps, C: tl.constexpr, PRE: tl.constexpr):
    """m and, for the gradients, its two factors or what GELU took."""
    plane = H * W
    if PRE == "depthwise":
        result = d.taps3x3(x, plane, pixels, inside, weight, bias, H, W, C)
        return result, result, result
    value = d.load(x, plane, pixels, inside, C)
    if PRE == "norm":
        normal, _ = d.normalise(value, inside, eps, C)
        result = d.affine(normal, d.load_vector(weight, C), d.load_vector(bias, C), C)
        return result, result, result
    elif PRE == "gelu":
        return d.gelu_tile(value, C), value, value
    elif PRE == "product":
        factor = d.load(other, plane, pixels, inside, C)
        return d.multiply(value, factor, C), value, factor
    elif PRE == "gate":
        factor = d.taps3x3(other, plane, pixels, inside, weight, bias, H, W, C)
        return d.multiply(value, factor, C), value, factor
    else:
        return value, value, value


@triton.jit
def _forward(
    x,  # [N, CI, H, W], images x_image apart
    other,  # [N, CI, H, W]
    pre_weight,  # [CI], or [CI, 3, 3] of a depthwise convolution
    pre_bias,  # [CI]
    weight,  # [CO, CI]
    bias,  # [CO]
    residual,  # [N, CO, H, W]
    out,  # [N, CO, H, W]
    x_image,
    other_image,
    residual_image,
    H,
    W,
    eps,
    CI: tl.constexpr,
    CO: tl.constexpr,
    PRE: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    image, plane = tl.program_id(1).to(tl.int64), H * W
    pixels = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = pixels < plane
    x += image * x_image
    other += image * other_image
    m, _, _ = _before(x, other, pre_weight, pre_bias, pixels, inside, H, W, eps, CI, PRE)
    w = d.load_matrix(weight, CI, 1, CO, CI, DOT)
    z = d.add_bias(d.linear(m, w, CO, CI, DOT, PRECISION), bias, CO)
    if GELU:
        z = d.gelu_tile(z, CO)
    if RESIDUAL:
        z = d.add(z, d.load(residual + image * residual_image, plane, pixels, inside, CO), CO)
    d.store(out + image * plane * CO, plane, pixels, inside, z, CO)


@triton.jit
def _backward(
    dy,  # [N, CO, H, W], images dy_image apart, as with all that follow
    x,  # [N, CI, H, W]
    other,  # [N, CI, H, W]
    pre_weight,  # [CI], or [CI, 3, 3]
    pre_bias,  # [CI]
    weight,  # [CO, CI]
    bias,  # [CO]
    skip,  # [N, CI, H, W]
    dx,  # [N, CI, H, W]
    dother,  # [N, CI, H, W]
    m_out,  # [N, CI, H, W]: m, unless PRE is none
    dz_out,  # [N, CO, H, W]: gradient of W m + b, if GELU
    partial,  # [N, programs, 2, CI] sums for LayerNorm's weight and bias
    dy_image,
    x_image,
    other_image,
    skip_image,
    dx_image,
    dother_image,
    H,
    W,
    eps,
    CI: tl.constexpr,
    CO: tl.constexpr,
    PRE: tl.constexpr,
    GELU: tl.constexpr,
    SKIP: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    share, shares, image = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    plane = H * W
    x += image * x_image
    other += image * other_image
    w = d.load_matrix(weight, CI, 1, CO, CI, DOT)
    dscale, dshift = d.zeros(CI), d.zeros(CI)
    for tile in range(share, tl.cdiv(plane, TILE), shares):
        pixels = tile * TILE + tl.arange(0, TILE)
        inside = pixels < plane
        m, first, second = _before(x, other, pre_weight, pre_bias, pixels, inside, H, W, eps, CI, PRE)
        if PRE != "none":
            d.store(m_out + image * plane * CI, plane, pixels, inside, m, CI)
        dz = d.load(dy + image * dy_image, plane, pixels, inside, CO)
        if GELU:
            z = d.add_bias(d.linear(m, w, CO, CI, DOT, PRECISION), bias, CO)
            dz = d.through_gelu(dz, z, CO)
            d.store(dz_out + image * plane * CO, plane, pixels, inside, dz, CO)
        dm = d.linear_back(dz, w, CO, CI, DOT, PRECISION)
        if PRE == "norm":
            # Again, rather than held in registers through the products.
            normal, rstd = d.normalise(d.load(x, plane, pixels, inside, CI), inside, eps, CI)
            dscale = d.add_columns(dscale, d.multiply(dm, normal, CI), CI)
            dshift = d.add_columns(dshift, dm, CI)
            dm = d.through_normalise(dm, normal, rstd, d.load_vector(pre_weight, CI), CI)
        elif PRE == "gelu":
            dm = d.through_gelu(dm, first, CI)
        elif PRE == "product" or PRE == "gate":
            d.store(dother + image * dother_image, plane, pixels, inside, d.multiply(dm, first, CI), CI)
            dm = d.multiply(dm, second, CI)
        if SKIP:
            dm = d.add(dm, d.load(skip + image * skip_image, plane, pixels, inside, CI), CI)
        d.store(dx + image * dx_image, plane, pixels, inside, dm, CI)
    if PRE == "norm":
        sums = partial + (image * shares + share) * (2 * CI)
        d.store_vector(sums, dscale, CI)
        d.store_vector(sums + CI, dshift, CI)
