"""Backward of depthwise 3x3 convolutions, whose forward `pointwise` has before its matrix product."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _device as d
from ._configs import launch, planes, sharing, split


def gradients(
    dy: Tensor, x: Tensor, weight: Tensor, *, dx: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """dy, x: (N, C, H, W); weight: (C, 1, 3, 3) -> gradients of x, weight, bias (C,).

    ``dx`` (N, C, H, W), part of a larger tensor perhaps, receives the gradient of x.
    """
    x, dy = planes(x), planes(dy)
    n, c, h, w = x.shape
    dx = x.new_empty(x.shape) if dx is None else dx
    shares = sharing(h * w, 512, n * c)
    partial = x.new_empty((n, shares, 10 * c), dtype=torch.float32)
    args = (dy, x, weight.contiguous(), dx, partial, dy.stride(0), x.stride(0), dx.stride(0), h, w)
    launch(_backward, "plane", lambda config: (n * c, shares), *args, C=c)
    dweight, dbias = split(partial.sum((0, 1)), tuple(weight.shape), (c,))
    return dx, dweight, dbias


@triton.jit
def _backward(
    dy,  # [N, C, H, W], images dy_image apart, as with x and dx
    x,  # [N, C, H, W]
    weight,  # [C, 3, 3]
    dx,  # [N, C, H, W]
    partial,  # [N, programs, C * 9 + C] sums for weight and bias
    dy_image,
    x_image,
    dx_image,
    H,
    W,
    C: tl.constexpr,
    TILE: tl.constexpr,
):
    image, c = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C
    share, shares, plane = tl.program_id(1), tl.num_programs(1), H * W
    dy += image * dy_image + c.to(tl.int64) * plane
    x += image * x_image + c.to(tl.int64) * plane
    dx += image * dx_image + c.to(tl.int64) * plane
    dbias, dweight = tl.zeros((TILE,), tl.float32), ()
    for tap in tl.static_range(9):
        dweight = dweight + (tl.zeros((TILE,), tl.float32),)
    for tile in range(share, tl.cdiv(plane, TILE), shares):
        pixels = tile * TILE + tl.arange(0, TILE)
        inside = pixels < plane
        gradient = tl.load(dy + pixels, mask=inside, other=0.0).to(tl.float32)
        dbias += gradient
        result = tl.zeros((TILE,), tl.float32)
        sums = ()
        for tap in tl.static_range(9):
            there, known = d.neighbours(pixels, inside, tap // 3 - 1, tap % 3 - 1, H, W)
            source = tl.load(x + there, mask=known, other=0.0).to(tl.float32)
            sums = sums + (dweight[tap] + gradient * source,)
            # Output pixel p took from p + shift, so input pixel p gave to p - shift.
            there, known = d.neighbours(pixels, inside, 1 - tap // 3, 1 - tap % 3, H, W)
            given = tl.load(dy + there, mask=known, other=0.0).to(tl.float32)
            result += given * tl.load(weight + c * 9 + tap).to(tl.float32)
        dweight = sums
        tl.store(dx + pixels, result.to(dx.dtype.element_ty), mask=inside)
    partial += (image * shares + share) * (10 * C)
    for tap in tl.static_range(9):
        tl.store(partial + c * 9 + tap, tl.sum(dweight[tap], 0))
    tl.store(partial + 9 * C + c, tl.sum(dbias, 0))
