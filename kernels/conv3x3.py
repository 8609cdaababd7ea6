"""Dense 3x3 convolution, zero padded: forward and backward."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import _device as d
from ._configs import dot, launch, planes, tiles
from .dense_weights import weight_gradients


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: (N, C, H, W); weight: (O, C, 3, 3); bias: (O,) -> (N, O, H, W)."""
    return _convolve(planes(x), weight.contiguous(), bias, transposed=False)


def gradients(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dy: (N, O, H, W); x: (N, C, H, W) -> gradients of x, weight (O, C, 3, 3), bias (O,)."""
    dweight, dbias = weight_gradients(dy, x, weight)
    dx = _convolve(planes(dy), weight.contiguous(), None, transposed=True)
    return dx, dweight, dbias


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Tensor:
    n, c, h, w = x.shape
    out = x.new_empty((n, weight.shape[1 if transposed else 0], h, w))
    row, column = (9, 9 * weight.shape[1]) if transposed else (9 * c, 9)  # of weight, per channel out and in
    args, many = (x, weight, bias, out, x.stride(0), row, column, h, w), tiles(h * w)
    constants = dict(CI=c, CO=out.shape[1], TRANSPOSED=transposed)
    launch(_forward, "matrix", lambda config: (many(config), n), *args, **constants, **dot(x))
    return out


@triton.jit
def _forward(
    x,  # [N, CI, H, W], images x_image apart
    weight,  # [CO, CI, 3, 3]; [CI, CO, 3, 3] if TRANSPOSED
    bias,  # [CO], none if TRANSPOSED
    out,  # [N, CO, H, W]
    x_image,
    row,
    column,
    H,
    W,
    CI: tl.constexpr,
    CO: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    image, plane = tl.program_id(1).to(tl.int64), H * W
    pixels = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = pixels < plane
    x += image * x_image
    sums = d.zero_tile(TILE, CO)
    for tap in range(9):  # a loop: unrolled, float32 products overflow the instruction cache
        there, known = d.neighbours(pixels, inside, tap // 3 - 1, tap % 3 - 1, H, W)
        tile = d.load(x, plane, there, known, CI)
        w = d.load_matrix(weight + (8 - tap if TRANSPOSED else tap), row, column, CO, CI, DOT)
        sums = d.linear_onto(sums, tile, w, CO, CI, DOT, PRECISION)
    if not TRANSPOSED:
        sums = d.add_bias(sums, bias, CO)
    d.store(out + image * plane * CO, plane, pixels, inside, sums, CO)
