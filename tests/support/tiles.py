"""Exact tiles of pictures that would show a wrong routing."""

from __future__ import annotations

import torch
from torch import Tensor

from seemore_fast.upscale import exact


def tiled(model: torch.nn.Module, x: Tensor, tile: int, **options) -> Tensor:
    """All rows that `upscale_exact` hands over, which must follow each other."""
    bands: list[Tensor] = []

    def emit(first: int, rows: Tensor) -> None:
        assert first == sum(band.shape[2] for band in bands)
        bands.append(rows)

    exact.upscale_exact(model, x, tile, emit, **options)
    return torch.cat(bands, 2)


def pictures(channels: int, *size: int) -> Tensor:
    """Two images that take different experts; parts of the second one alone would take others again."""
    x = torch.rand(2, channels, *size, dtype=torch.float64)
    border = size[1] * 5 // 8
    x[1, :, :, :border] *= 0.02
    x[1, 0, :, border:] = 1
    return x
