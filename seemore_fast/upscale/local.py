"""Local tiles: each is a picture of its own to the network, neighbours are cross-faded where they overlap.

They bound the memory and cost little time, but each tile chooses its own experts: the result is close to that
of the whole picture, not equal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seemore_fast.errors import SeemoreError

OVERLAP = 32
"""Default overlap of tiles, in input pixels; farther away a pixel hardly moves another."""


def check_overlap(tile: int, overlap: int | None) -> int:
    """The overlap to use (None: 32, at most a quarter of the tile).

    Raises SeemoreError if it is negative or more than a quarter of ``tile`` (0: any).
    """
    if overlap is None:
        return min(OVERLAP, tile // 4)
    if overlap < 0 or (tile and 4 * overlap > tile):
        limit = f"0..{tile // 4} (a quarter of the tile)" if tile else "0 and more"
        raise SeemoreError(f"overlap must lie in {limit}, got {overlap}")
    return overlap


def upscale_local(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    scale: int,
    tile: int,
    overlap: int,
    emit: Callable[[int, Tensor], None],
    step: Callable[[int, int], None],
) -> None:
    """Upscales x [N, C, H, W] by tiles of at most ``tile`` pixels a side, that share ``overlap`` pixels.

    ``run`` takes a tile [N, C, h, w] to its output [N, C, h * scale, w * scale].  ``emit(first_row, rows)``
    gets finished output rows [N, C, n, W * scale], float32, top to bottom; ``step(done, total)`` is called
    before the first tile and after each.
    """
    height, width = x.shape[2:]
    ys, tile_h = plan_tiles(height, tile, overlap)
    xs, tile_w = plan_tiles(width, tile, overlap)
    total = len(ys) * len(xs)
    step(0, total)
    carry: Tensor | None = None  # rows that the next strip of tiles completes
    for i, y in enumerate(ys):
        strip = torch.zeros(*x.shape[:2], tile_h * scale, width * scale, device=x.device)
        for j, left in enumerate(xs):
            part = run(x[:, :, y : y + tile_h, left : left + tile_w]).float()
            strip[..., left * scale : (left + tile_w) * scale] += part * _fade(xs, tile_w, j, scale).to(part)
            step(i * len(xs) + j + 1, total)
        strip *= _fade(ys, tile_h, i, scale).to(strip)[:, None]
        if carry is not None:
            strip[:, :, : carry.shape[2]] += carry
        done = scale * (ys[i + 1] - y if i + 1 < len(ys) else tile_h)
        emit(y * scale, strip[:, :, :done])
        carry = strip[:, :, done:].clone()


def plan_tiles(length: int, tile: int, overlap: int) -> tuple[list[int], int]:
    """Starts and common size of the tiles that cover 0..``length``, neighbours sharing at least ``overlap``.

    Tiles are equal, as small as their number allows, and evenly spread; with ``overlap`` at most a quarter of
    ``tile``, no pixel lies in more than two.
    """
    if tile == 0 or length <= tile:
        return [0], length
    count = -(-(length - overlap) // (tile - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    return [i * (length - size) // (count - 1) for i in range(count)], size


def _fade(starts: list[int], size: int, index: int, scale: int) -> Tensor:
    """Weight of each output pixel along one axis of a tile: 1, falling to 0 where a neighbour overlaps.

    The outer quarter of an overlap has weight 0, for there a tile suffers from its own zero padding.
    """
    weight = torch.ones(size * scale)
    if index > 0:
        shared = (starts[index - 1] + size - starts[index]) * scale
        weight[:shared] = _ramp(shared)
    if index + 1 < len(starts):
        shared = (starts[index] + size - starts[index + 1]) * scale
        weight[size * scale - shared :] = 1 - _ramp(shared)
    return weight


def _ramp(length: int) -> Tensor:
    return (2 * (torch.arange(length) + 0.5) / max(length, 1) - 0.5).clamp(0, 1)
