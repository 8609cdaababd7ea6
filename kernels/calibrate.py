"""RME's calibration, ``k + resize(1x1 (depthwise 3x3 (agg ... agg k)))``: forward and backward.

agg is GELU of a depthwise 4x4 convolution of stride 4; rows and columns that do not fill a block of 4 are
left out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seemore_fast.network.parameters import CalibrateWeights, Layer, flatten, unflatten

from . import _device as d
from . import depthwise, pointwise
from ._configs import launch, needed, planes, planes_grid, sharing, split
from .pointwise import Pre

_COLUMNS = 16
"""Of a coarse map that a program sums up: with all of a wide one its registers would spill."""


def forward(*inputs) -> tuple[Tensor]:
    """Inputs and result of `seemore_fast.ops.calibrate`'s operator."""
    x, *tensors, recursive = inputs
    return (calibrate(x, unflatten(CalibrateWeights, tensors), recursive),)


def backward(grad: Tensor, *inputs) -> list[Tensor]:
    x, *tensors, recursive, needs = inputs
    w = unflatten(CalibrateWeights, tensors)
    dx, weights = gradients(grad, pyramid(x, w.agg, recursive), w)
    return needed([dx, *flatten(weights)], [x, *tensors], needs)


def calibrate(k: Tensor, w: CalibrateWeights, recursive: int) -> Tensor:
    """k: (N, C, H, W); recursive: how often agg is applied -> (N, C, H, W)."""
    return resized(pyramid(k, w.agg, recursive), w)


def resized(levels: list[Tensor], w: CalibrateWeights) -> Tensor:
    """The same from k's `pyramid`, which `gradients` wants too."""
    k, coarse = levels[0], pointwise.convolve(levels[-1], *w.conv_1, _before(w))
    (n, c, height, width), (rows, columns) = k.shape, coarse.shape[2:]
    out = k.new_empty(k.shape)
    grid = planes_grid(n, c, height * width)
    args = (k, coarse, out, k.stride(0), height, width, rows, columns, rows / height, columns / width)
    launch(_resize, "plane", grid, *args, C=c)
    return out


def gradients(
    dy: Tensor, levels: list[Tensor], w: CalibrateWeights, dk: Tensor | None = None
) -> tuple[Tensor, CalibrateWeights]:
    """Gradients of k and the weights from dy (N, C, H, W) and k's `pyramid`.

    ``dk`` (N, C, H, W), part of a larger tensor perhaps, receives the gradient of k.
    """
    k, dy = levels[0], planes(dy)
    (n, c, height, width), (rows, columns) = k.shape, levels[-1].shape[2:]
    dcoarse = k.new_empty(levels[-1].shape)
    args = (dy, dcoarse, dy.stride(0), height, width, rows, columns, rows / height, columns / width)
    grid = lambda _: (n * c, rows, -(-columns // _COLUMNS))
    launch(_resize_backward, "row", grid, *args, C=c, COLUMNS=_COLUMNS)
    conv_1 = pointwise.gradients(dcoarse, levels[-1], *w.conv_1, _before(w))
    gradient, *conv_0 = depthwise.gradients(conv_1.x, levels[-1], w.conv_0.weight)
    dagg = None
    for level in reversed(range(len(levels) - 1)):
        last = level == 0
        kept = (dy, dk) if last else (None, None)
        gradient, sums = _agg_backward(gradient, levels[level], w.agg, *kept)
        dagg = sums if dagg is None else dagg + sums
    if dagg is None:  # no aggregation: k itself was convolved
        gradient = torch.add(gradient, dy, out=dk)
        dagg = k.new_zeros(17 * c, dtype=torch.float32)
    agg = Layer(*split(dagg, tuple(w.agg.weight.shape), (c,)))
    return gradient, CalibrateWeights(agg, Layer(*conv_0), conv_1.layer)


def _before(w: CalibrateWeights) -> Pre:
    return Pre("depthwise", None, w.conv_0.weight.contiguous(), w.conv_0.bias)


def pyramid(k: Tensor, layer: Layer, recursive: int) -> list[Tensor]:
    """k, agg k, agg agg k, ..."""
    levels = [planes(k)]
    for _ in range(recursive):
        x = levels[-1]
        n, c, h, w = x.shape
        out = x.new_empty((n, c, h // 4, w // 4))
        args = (x, layer.weight.contiguous(), layer.bias, out, x.stride(0), h // 4, w // 4, w, h * w)
        launch(_agg, "plane", planes_grid(n, c, (h // 4) * (w // 4)), *args, C=c)
        levels.append(out)
    return levels


def _agg_backward(
    dy: Tensor, x: Tensor, layer: Layer, skip: Tensor | None, dx: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradient of x (skip added), and the sums (17 C,) for agg's weight and bias, from that of agg x."""
    (n, c, h, w), (rows, columns) = x.shape, dy.shape[2:]
    dz, shares = dy.new_empty(dy.shape), sharing(rows * columns, 512, n * c)
    partial = x.new_empty((n, shares, 17 * c), dtype=torch.float32)
    weight = layer.weight.contiguous()
    args = (dy, x, weight, layer.bias, dz, partial, x.stride(0), rows, columns, w, h * w)
    launch(_agg_weights, "plane", lambda config: (n * c, shares), *args, C=c)
    dx = x.new_empty(x.shape) if dx is None else dx
    skipped = dx if skip is None else skip
    args = (dz, weight, skipped, dx, skipped.stride(0), dx.stride(0), rows, columns, w, h * w)
    grid = planes_grid(n, c, h * w)
    launch(_agg_spread, "plane", grid, *args, C=c, SKIP=skip is not None)
    return dx, partial.sum((0, 1))


# ---- aggregation -------------------------------------------------------------------------------------------


@triton.jit
def _agg(
    x,  # [N, C, H, W], images x_image apart
    weight,  # [C, 4, 4]
    bias,  # [C]
    out,  # [N, C, rows, columns]
    x_image,
    rows,
    columns,
    W,
    plane,
    C: tl.constexpr,
    TILE: tl.constexpr,
):
    image, c = tl.program_id(2).to(tl.int64), tl.program_id(1)
    blocks = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = blocks < rows * columns
    corner = (
        x + image * x_image + c.to(tl.int64) * plane + (blocks // columns * (4 * W) + blocks % columns * 4)
    )
    z = tl.zeros((TILE,), tl.float32) + tl.load(bias + c).to(tl.float32)
    for tap in tl.static_range(16):
        source = tl.load(corner + (tap // 4 * W + tap % 4), mask=inside, other=0.0).to(tl.float32)
        z += source * tl.load(weight + c * 16 + tap).to(tl.float32)
    out += (image * C + c) * rows * columns
    tl.store(out + blocks, d.gelu(z).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _agg_weights(
    dy,  # [N, C, rows, columns]
    x,  # [N, C, H, W], images x_image apart
    weight,  # [C, 4, 4]
    bias,  # [C]
    dz,  # [N, C, rows, columns]: gradient of what GELU took
    partial,  # [N, programs, C * 16 + C] sums for weight and bias
    x_image,
    rows,
    columns,
    W,
    plane,
    C: tl.constexpr,
    TILE: tl.constexpr,
):
    image, c = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C
    share, shares = tl.program_id(1), tl.num_programs(1)
    x += image * x_image + c.to(tl.int64) * plane
    low = (image * C + c) * rows * columns
    dbias, dweight = tl.zeros((TILE,), tl.float32), ()
    for tap in tl.static_range(16):
        dweight = dweight + (tl.zeros((TILE,), tl.float32),)
    for tile in range(share, tl.cdiv(rows * columns, TILE), shares):
        blocks = tile * TILE + tl.arange(0, TILE)
        inside = blocks < rows * columns
        corner = x + (blocks // columns * (4 * W) + blocks % columns * 4)
        z = tl.zeros((TILE,), tl.float32) + tl.load(bias + c).to(tl.float32)
        for tap in tl.static_range(16):
            source = tl.load(corner + (tap // 4 * W + tap % 4), mask=inside, other=0.0).to(tl.float32)
            z += source * tl.load(weight + c * 16 + tap).to(tl.float32)
        gradient = tl.load(dy + low + blocks, mask=inside, other=0.0).to(tl.float32) * d.gelu_gradient(z)
        dbias += gradient
        sums = ()
        for tap in tl.static_range(16):
            source = tl.load(corner + (tap // 4 * W + tap % 4), mask=inside, other=0.0).to(tl.float32)
            sums = sums + (dweight[tap] + gradient * source,)
        dweight = sums
        tl.store(dz + low + blocks, gradient.to(dz.dtype.element_ty), mask=inside)
    partial += (image * shares + share) * (17 * C)
    for tap in tl.static_range(16):
        tl.store(partial + c * 16 + tap, tl.sum(dweight[tap], 0))
    tl.store(partial + 16 * C + c, tl.sum(dbias, 0))


@triton.jit
def _agg_spread(
    dz,  # [N, C, rows, columns]
    weight,  # [C, 4, 4]
    skip,  # [N, C, H, W], images skip_image apart, added if SKIP
    dx,  # [N, C, H, W], images dx_image apart
    skip_image,
    dx_image,
    rows,
    columns,
    W,
    plane,
    C: tl.constexpr,
    SKIP: tl.constexpr,
    TILE: tl.constexpr,
):
    image, c = tl.program_id(2).to(tl.int64), tl.program_id(1)
    pixels = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = pixels < plane
    row, column = pixels // W, pixels % W
    whole = inside & (row < 4 * rows) & (column < 4 * columns)
    block = (image * C + c) * rows * columns + (row // 4 * columns + column // 4)
    result = tl.load(dz + block, mask=whole, other=0.0).to(tl.float32)
    result *= tl.load(weight + c * 16 + (row % 4 * 4 + column % 4)).to(tl.float32)
    offset = c.to(tl.int64) * plane + pixels
    if SKIP:
        result += tl.load(skip + image * skip_image + offset, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + image * dx_image + offset, result.to(dx.dtype.element_ty), mask=inside)


# ---- bilinear resizing, align_corners=False ----------------------------------------------------------------


@triton.jit
def _source(position, ratio, many):
    """Which coarse pixels output ``position`` lies between, left and right, and the right one's weight."""
    exact = tl.maximum((position.to(tl.float32) + 0.5) * ratio - 0.5, 0.0)
    left = exact.to(tl.int32)
    left = tl.minimum(left, many - 1)
    return left, tl.minimum(left + 1, many - 1), exact - left.to(tl.float32)


@triton.jit
def _resize(
    k,  # [N, C, H, W], images k_image apart
    coarse,  # [N, C, rows, columns]
    out,  # [N, C, H, W]: k + coarse, resized
    k_image,
    H,
    W,
    rows,
    columns,
    row_ratio,
    column_ratio,
    C: tl.constexpr,
    TILE: tl.constexpr,
):
    image, c, plane = tl.program_id(2).to(tl.int64), tl.program_id(1), H * W
    pixels = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = pixels < plane
    top, bottom, down = _source(pixels // W, row_ratio, rows)
    left, right, along = _source(pixels % W, column_ratio, columns)
    coarse += (image * C + c) * rows * columns
    upper = tl.load(coarse + (top * columns + left), mask=inside, other=0.0).to(tl.float32) * (1 - along)
    upper += tl.load(coarse + (top * columns + right), mask=inside, other=0.0).to(tl.float32) * along
    lower = tl.load(coarse + (bottom * columns + left), mask=inside, other=0.0).to(tl.float32) * (1 - along)
    lower += tl.load(coarse + (bottom * columns + right), mask=inside, other=0.0).to(tl.float32) * along
    value = tl.load(k + image * k_image + c.to(tl.int64) * plane + pixels, mask=inside, other=0.0).to(
        tl.float32
    )
    value += upper * (1 - down) + lower * down
    tl.store(out + (image * C + c) * plane + pixels, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _resize_backward(
    dy,  # [N, C, H, W], images dy_image apart
    dcoarse,  # [N, C, rows, columns]
    dy_image,
    H,
    W,
    rows,
    columns,
    row_ratio,
    column_ratio,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Some of one coarse row of one channel: its rows of dy weighted and added, then the columns."""
    image, c, row = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C, tl.program_id(1)
    dy += image * dy_image + c.to(tl.int64) * H * W
    first = tl.maximum(((row - 0.5) / row_ratio - 0.5).to(tl.int32) - 1, 0)
    last = tl.minimum(((row + 1.5) / row_ratio + 0.5).to(tl.int32) + 2, H)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((COLUMNS,), tl.float32)
    start = tl.maximum(((tl.program_id(2) * COLUMNS - 0.5) / column_ratio - 0.5).to(tl.int32) - 1, 0)
    stop = tl.minimum((((tl.program_id(2) + 1) * COLUMNS + 0.5) / column_ratio + 0.5).to(tl.int32) + 2, W)
    for begin in range(start, stop, TILE):
        along = begin + tl.arange(0, TILE)
        total = tl.zeros((TILE,), tl.float32)
        for y in range(first, last):
            top, bottom, down = _source(y + tl.zeros((1,), tl.int32), row_ratio, rows)
            share = tl.where(top == row, 1 - down, 0.0) + tl.where(bottom == row, down, 0.0)
            total += share * tl.load(dy + (y * W + along), mask=along < W, other=0.0).to(tl.float32)
        left, right, weight = _source(along, column_ratio, columns)
        share = tl.where(left[:, None] == column[None, :], (1 - weight)[:, None], 0.0)
        share += tl.where(right[:, None] == column[None, :], weight[:, None], 0.0)
        sums += tl.sum(share * total[:, None], 0)
    dcoarse += ((image * C + c) * rows + row) * columns
    tl.store(dcoarse + column, sums.to(dcoarse.dtype.element_ty), mask=column < columns)
