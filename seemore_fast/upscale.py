"""One picture through the network: gray and alpha around an RGB model, tiles and their seams."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import BackendError, ImageError, SeemoreError

MIN_TILE = 32
OVERLAP = 32
"""Default overlap of tiles, in input pixels; farther away a pixel hardly moves another."""


def upscale_image(
    model: nn.Module,
    image: NDArray[np.uint8],
    tile: int = 0,
    overlap: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """Upscales (H, W, C) uint8 to (H * scale, W * scale, C): C = 1 gray, 2 gray+alpha, 3 RGB, 4 RGB+alpha.

    ``model`` is a SeemoRe in evaluation mode; its device and the surrounding autocast decide where and how
    precisely it computes.  Gray is repeated over the channels and averaged back.

    Alpha (straight) goes through the network as a gray picture of its own.  Invisible pixels first take the
    colour of their visible surroundings, so that whatever colour they hid leaves no fringe along the edge;
    and where alpha is constant over 3x3 pixels it stays exactly so.

    ``tile`` is the largest side of a tile in input pixels, 0 for the whole picture at once; neighbours share
    ``overlap`` pixels (default: 32, at most a quarter of the tile) and are cross-faded there.  Tiles bound
    the memory, but each chooses its own experts: the result is close to that of the whole picture, not equal.
    ``progress(done, total)`` is called after each tile.

    Raises ImageError for another kind of array, SeemoreError for a bad ``tile`` or ``overlap``, BackendError
    if the network's output is not finite.
    """
    overlap = check_tiles(tile, overlap)
    if image.dtype != np.uint8 or image.ndim != 3 or not 1 <= image.shape[2] <= 4 or 0 in image.shape:
        found = f"{image.dtype} of shape {image.shape}"
        raise ImageError(f"image must be uint8 of shape (H, W, C), C from 1 to 4, not {found}")
    if image.shape[2] in (1, 3):
        return _upscale_layers(model, [image], tile, overlap, progress)

    alpha = image[..., -1:]
    colour = _fill_invisible(image[..., :-1], alpha)
    if alpha.min() == alpha.max():
        larger = _upscale_layers(model, [colour], tile, overlap, progress)
        return np.concatenate([larger, np.full_like(larger[..., :1], alpha.flat[0])], axis=2)
    larger = _upscale_layers(model, [colour, alpha], tile, overlap, progress)
    _keep_constant_areas(larger[..., -1], alpha[..., 0])
    return larger


def check_tiles(tile: int, overlap: int | None) -> int:
    """The overlap to use.

    Raises SeemoreError unless ``tile`` is 0 or at least 32, and ``overlap`` at most a quarter of it.
    """
    if tile != 0 and tile < MIN_TILE:
        raise SeemoreError(f"tile must be 0 (the whole picture) or at least {MIN_TILE} pixels, got {tile}")
    if overlap is None:
        return min(OVERLAP, tile // 4)
    if overlap < 0 or (tile and 4 * overlap > tile):
        raise SeemoreError(f"overlap must lie in 0..{tile // 4} (a quarter of the tile), got {overlap}")
    return overlap


def _fill_invisible(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Gives pixels of alpha 0 the mean colour of the nearest visible ones, by a pyramid of 2x2 sums."""
    if alpha.all() or not alpha.any():
        return colour

    def fill(weighted: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
        known = weighted / np.maximum(weight, 1)
        if weight.all():
            return known
        h, w = weight.shape[:2]
        coarse = fill(_sum_2x2(weighted), _sum_2x2(weight)).repeat(2, axis=0).repeat(2, axis=1)
        return np.where(weight > 0, known, coarse[:h, :w])

    weight = alpha.astype(np.float32)
    filled = fill(colour * weight, weight).round().astype(np.uint8)
    return np.where(alpha > 0, colour, filled)


def _sum_2x2(x: NDArray[np.float32]) -> NDArray[np.float32]:
    h, w, c = x.shape
    even = np.pad(x, ((0, h % 2), (0, w % 2), (0, 0)))
    return even.reshape((h + 1) // 2, 2, (w + 1) // 2, 2, c).sum((1, 3))


def _keep_constant_areas(larger: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> None:
    """Puts back, in place, what the network made of constant areas: opaque must not become 254."""
    plane = torch.from_numpy(alpha.astype(np.float32))[None, None]
    highest = F.max_pool2d(plane, 3, stride=1, padding=1)
    lowest = -F.max_pool2d(-plane, 3, stride=1, padding=1)
    scale = larger.shape[0] // alpha.shape[0]
    constant, values = (
        x.repeat(scale, axis=0).repeat(scale, axis=1) for x in ((highest == lowest)[0, 0].numpy(), alpha)
    )
    larger[constant] = values[constant]


def _upscale_layers(
    model: nn.Module,
    layers: list[NDArray[np.uint8]],
    tile: int,
    overlap: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.uint8]:
    """Upscales pictures (H, W, 1 or 3) as one batch and concatenates their channels."""
    channels, scale = model.config["in_chans"], model.scale
    device = next(model.parameters()).device
    if any(layer.shape[2] not in (1, channels) for layer in layers):
        raise ImageError(f"the model takes {channels}-channel pictures, not colour")
    planes = [torch.tensor(layer, device=device).permute(2, 0, 1) for layer in layers]
    batch = torch.stack([plane.expand(channels, -1, -1) for plane in planes])  # [N, in_chans, H, W]

    def run(part: Tensor) -> Tensor:
        """[N, in_chans, h, w] uint8 -> [C, h * scale, w * scale] float32, C as in the layers together."""
        out = model(part.float() / 255).float()
        if not out.sum().isfinite():
            raise BackendError("the network's output is not finite in this dtype; use fp32")
        pairs = zip(out, planes, strict=True)
        # A copy in any case: the output may be a buffer that the model keeps.
        return torch.cat([o.mean(0, keepdim=True) if len(plane) == 1 else o for o, plane in pairs])

    with torch.inference_mode():
        return _run_tiles(run, batch, sum(map(len, planes)), scale, tile, overlap, progress)


def _run_tiles(
    run: Callable[[Tensor], Tensor],
    batch: Tensor,
    channels: int,
    scale: int,
    tile: int,
    overlap: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.uint8]:
    """Row by row of tiles, so that only one row is held in floating point."""
    height, width = batch.shape[2:]
    ys, tile_h = plan_tiles(height, tile, overlap)
    xs, tile_w = plan_tiles(width, tile, overlap)
    total = len(ys) * len(xs)
    if total == 1:
        result = _to_uint8(run(batch))
        if progress is not None:
            progress(1, 1)
        return result

    result = np.empty((height * scale, width * scale, channels), np.uint8)
    carry = torch.zeros(channels, 0, width * scale, device=batch.device)  # rows that the next strip completes
    for i, y in enumerate(ys):
        strip = torch.zeros(channels, tile_h * scale, width * scale, device=batch.device)
        for j, x in enumerate(xs):
            part = run(batch[:, :, y : y + tile_h, x : x + tile_w])
            strip[:, :, x * scale : (x + tile_w) * scale] += part * _fade(xs, tile_w, j, scale).to(part)
            if progress is not None:
                progress(i * len(xs) + j + 1, total)
        strip *= _fade(ys, tile_h, i, scale).to(strip)[:, None]
        strip[:, : carry.shape[1]] += carry
        done = scale * (ys[i + 1] - y if i + 1 < len(ys) else tile_h)
        result[y * scale : y * scale + done] = _to_uint8(strip[:, :done])
        carry = strip[:, done:]
    return result


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


def _to_uint8(strip: Tensor) -> NDArray[np.uint8]:
    """[C, h, w] in [0, 1] -> (h, w, C) uint8, clamped and rounded; works in ``strip``, which is lost."""
    return strip.clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
