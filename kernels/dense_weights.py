"""Gradients of the weights and biases of dense 1x1 and 3x3 convolutions, from the gradient of their results.

Each program adds up its share of the pixels; one sum over the shares, in their order, follows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _device as d
from ._configs import dot, launch, planes, sharing, split


def weight_gradients(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """dy: (N, O, H, W); x: (N, C, H, W); weight: (O, C), (O, C, 1, 1) or (O, C, 3, 3).

    Returns the gradients of weight and bias (O,).
    """
    x, dy = planes(x), planes(dy)
    (n, c, h, w), co = x.shape, weight.shape[0]
    taps = weight.numel() // (co * c)
    rows = c if co % c == 0 else co  # of the weight, for one program; more would not fit its registers
    # The sums of a 3x3 convolution are long (B: 83 kB), hence fewer shares; its nine taps run beside one
    # another.
    shares = sharing(h * w, 64, n if taps == 1 else 4 * n)
    partial = x.new_empty((n, shares, taps * co * c + co), dtype=torch.float32)
    grid = lambda config: (taps * co // rows, shares, n)
    args = (dy, x, partial, dy.stride(0), x.stride(0), h, w)
    launch(_sums, "matrix_gradient", grid, *args, CI=c, CO=co, ROWS=rows, TAPS=taps, **dot(x))
    dweight, dbias = split(partial.sum((0, 1)), tuple(weight.shape), (co,))
    return dweight, dbias


@triton.jit
def _sums(
    dy,  # [N, CO, H, W], images dy_image apart
    x,  # [N, CI, H, W], images x_image apart
    partial,  # [N, programs, CO * CI * TAPS + CO] sums for weight and bias
    dy_image,
    x_image,
    H,
    W,
    CI: tl.constexpr,
    CO: tl.constexpr,
    ROWS: tl.constexpr,
    TAPS: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    tap, first = tl.program_id(0) % TAPS, tl.program_id(0) // TAPS * ROWS
    share, shares = tl.program_id(1), tl.num_programs(1)
    image, plane = tl.program_id(2).to(tl.int64), H * W
    dy += image * dy_image + first.to(tl.int64) * plane
    x += image * x_image
    dweight, dbias = d.zero_matrix(ROWS, CI), d.zeros(ROWS)
    for tile in range(share, tl.cdiv(plane, TILE), shares):
        pixels = tile * TILE + tl.arange(0, TILE)
        inside = pixels < plane
        gradient = d.load(dy, plane, pixels, inside, ROWS)
        if TAPS == 9:
            there, known = d.neighbours(pixels, inside, tap // 3 - 1, tap % 3 - 1, H, W)
            value = d.load(x, plane, there, known, CI)
        else:
            value = d.load(x, plane, pixels, inside, CI)
        dweight = d.outer(dweight, gradient, value, ROWS, CI, DOT, PRECISION)
        dbias = d.add_columns(dbias, gradient, ROWS)
    sums = partial + (image * shares + share) * (TAPS * CO * CI + CO)
    d.store_matrix(sums + first * CI * TAPS + tap, dweight, ROWS, CI, TAPS)
    if tap == 0:
        d.store_vector(sums + TAPS * CO * CI + first, dbias, ROWS)
