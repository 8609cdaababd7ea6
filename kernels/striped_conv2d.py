"""Striped convolution, depthwise 1xk then kx1, then GELU if asked: forward and backward.

One kernel does either stripe, on one channel of one image; the first stripe's result goes through memory (11
+ 11 taps there, 121 in one pass).  Backward computes it again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _device as d
from ._configs import launch, needed, planes, planes_grid, sharing


def forward(*inputs) -> tuple[Tensor]:
    """Inputs and result of `seemore_fast.ops.striped_conv2d`'s operator."""
    return (stripes(*inputs),)


def backward(grad: Tensor, *inputs) -> list[Tensor]:
    *tensors, gelu, needs = inputs
    return needed(gradients(grad, *tensors, gelu), tensors, needs)


def stripes(
    x: Tensor, weight_h: Tensor, bias_h: Tensor, weight_v: Tensor, bias_v: Tensor, gelu: bool
) -> Tensor:
    """x: (N, C, H, W); weight_h: (C, 1, 1, k); weight_v: (C, 1, k, 1); biases (C,) -> (N, C, H, W)."""
    return second(first(x, weight_h, bias_h), weight_v, bias_v, gelu)


def first(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The first stripe's result, which `gradients` wants too."""
    return _stripe(planes(x), weight, bias, rows=False)


def second(between: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    return _stripe(between, weight, bias, rows=True, gelu=gelu)


def gradients(
    dy: Tensor,
    x: Tensor,
    weight_h: Tensor,
    bias_h: Tensor,
    weight_v: Tensor,
    bias_v: Tensor,
    gelu: bool,
    *,
    between: Tensor | None = None,
    offset: Tensor | None = None,
    dx: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x and the four parameters from dy (N, C, H, W), to which ``offset`` (N, C) is added.

    ``between``: what `first` gave, if it is still there.  ``dx`` (N, C, H, W), part of a larger tensor
    perhaps, receives the gradient of x.
    """
    x, dy = planes(x), planes(dy)
    n, c, h, w = x.shape
    k, shares = weight_h.shape[-1], sharing(h * w, 512, n * c)
    partial = x.new_empty((n, shares, 2, c, k + 1), dtype=torch.float32)
    between = first(x, weight_h, bias_h) if between is None else between
    weight_h, weight_v = weight_h.contiguous(), weight_v.contiguous()

    def through(
        source: str, gradient: Tensor, value: Tensor, rows: bool, half: int, weight: Tensor
    ) -> Tensor:
        out = x.new_empty(x.shape)
        args = (gradient, value, weight, bias_v, offset, out, partial, gradient.stride(0), value.stride(0))
        constants = dict(C=c, K=k, ROWS=rows, SOURCE=source, OFFSET=offset is not None, HALF=half)
        grid = lambda config: (n * c, shares)
        launch(_backward, "plane", grid, *args, h, w, **constants)
        return out

    dz = through("gelu" if gelu else "plain", dy, between, True, 1, weight_v)
    dfirst = through("taps", dz, x, False, 0, weight_v)
    dx = _stripe(dfirst, weight_h, None, rows=False, out=dx)
    # Copies: an operator's results may not share memory.
    (dweight_h, dbias_h), (dweight_v, dbias_v) = (
        (half[:, :k].clone(memory_format=torch.contiguous_format), half[:, k].clone())
        for half in partial.sum((0, 1))
    )
    return dx, dweight_h.view(weight_h.shape), dbias_h, dweight_v.view(weight_v.shape), dbias_v


def _stripe(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    rows: bool,
    gelu: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """One stripe; without bias, its transpose."""
    n, c, h, w = x.shape
    out = x.new_empty(x.shape) if out is None else out
    args = (x, weight.contiguous(), bias, out, x.stride(0), out.stride(0), h, w)
    constants = dict(C=c, K=weight.numel() // c, ROWS=rows, GELU=gelu, TRANSPOSED=bias is None)
    launch(_forward, "plane", planes_grid(n, c, h * w), *args, **constants)
    return out


@triton.jit
def _tap(ptr, pixels, inside, shift, ROWS: tl.constexpr, H, W):
    """The plane at ``ptr`` ``shift`` rows below, or columns to the right."""
    if ROWS:
        there, known = d.neighbours(pixels, inside, shift, 0, H, W)
    else:
        there, known = d.neighbours(pixels, inside, 0, shift, H, W)
    return tl.load(ptr + there, mask=known, other=0.0).to(tl.float32)


@triton.jit
def _forward(
    x,  # [N, C, H, W], images x_image apart
    weight,  # [C, K]
    bias,  # [C], none if TRANSPOSED
    out,  # [N, C, H, W], images out_image apart
    x_image,
    out_image,
    H,
    W,
    C: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    GELU: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    TILE: tl.constexpr,
):
    image, c, plane = tl.program_id(2).to(tl.int64), tl.program_id(1), H * W
    pixels = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = pixels < plane
    x += image * x_image + c.to(tl.int64) * plane
    result = tl.zeros((TILE,), tl.float32)
    if not TRANSPOSED:
        result += tl.load(bias + c).to(tl.float32)
    for j in tl.static_range(K):
        source = _tap(x, pixels, inside, K // 2 - j if TRANSPOSED else j - K // 2, ROWS, H, W)
        result += source * tl.load(weight + c * K + j).to(tl.float32)
    if GELU:
        result = d.gelu(result)
    out += image * out_image + c.to(tl.int64) * plane
    tl.store(out + pixels, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    gradient,  # [N, C, H, W], images gradient_image apart: of the result, or (taps) of the next stripe's
    x,  # [N, C, H, W], images x_image apart: what this stripe read
    weight,  # [C, K] of the second stripe
    bias,  # [C] of the second stripe
    offset,  # [N, C], added to the gradient if OFFSET
    out,  # [N, C, H, W]: gradient of this stripe's result
    partial,  # [N, programs, 2, C, K + 1] sums for this stripe's weight and bias
    gradient_image,
    x_image,
    H,
    W,
    C: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    SOURCE: tl.constexpr,
    OFFSET: tl.constexpr,
    HALF: tl.constexpr,
    TILE: tl.constexpr,
):
    image, c, plane = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C, H * W
    share, shares = tl.program_id(1), tl.num_programs(1)
    gradient += image * gradient_image + c.to(tl.int64) * plane
    x += image * x_image + c.to(tl.int64) * plane
    out += (image * C + c) * plane
    dbias, dweight = tl.zeros((TILE,), tl.float32), ()
    for j in tl.static_range(K):
        dweight = dweight + (tl.zeros((TILE,), tl.float32),)
    for tile in range(share, tl.cdiv(plane, TILE), shares):
        pixels = tile * TILE + tl.arange(0, TILE)
        inside = pixels < plane
        if SOURCE == "taps":
            value = tl.zeros((TILE,), tl.float32)
            for j in tl.static_range(K):
                given = _tap(gradient, pixels, inside, K // 2 - j, True, H, W)
                value += given * tl.load(weight + c * K + j).to(tl.float32)
        else:
            value = tl.load(gradient + pixels, mask=inside, other=0.0).to(tl.float32)
            if OFFSET:
                value += tl.where(inside, tl.load(offset + image * C + c).to(tl.float32), 0.0)
        if SOURCE == "gelu":
            z = tl.zeros((TILE,), tl.float32) + tl.load(bias + c).to(tl.float32)
            for j in tl.static_range(K):
                source = _tap(x, pixels, inside, j - K // 2, ROWS, H, W)
                z += source * tl.load(weight + c * K + j).to(tl.float32)
            value *= d.gelu_gradient(z)
        dbias += value
        sums = ()
        for j in tl.static_range(K):
            sums = sums + (dweight[j] + value * _tap(x, pixels, inside, j - K // 2, ROWS, H, W),)
        dweight = sums
        tl.store(out + pixels, value.to(out.dtype.element_ty), mask=inside)
    partial += (((image * shares + share) * 2 + HALF) * C + c) * (K + 1)
    for j in tl.static_range(K):
        tl.store(partial + j, tl.sum(dweight[j], 0))
    tl.store(partial + K, tl.sum(dbias, 0))
