"""How long an image in tiles will take: by a small piece of it, and by what a file in the folder costs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from seemore_fast.network import reference
from seemore_fast.system import machine
from seemore_fast.upscale.exact.grid import Grid, crop_size

LONG = 60
"""Seconds from which on the time is told."""

_POOL = 0.37
"""The first half of RME, in layers: it is computed twice, once for its sums (docs/tiling.md)."""

_DENSE = 0.5
"""Time of the tail's multiply-adds, all in 3x3 convolutions, relative to those of a layer."""

_TRIAL = 256
"""Side of the piece by which the time is foretold, if the image is 16 times as large."""

_BLOCK = 32 << 20
"""Bytes that are written on trial."""


@dataclass(frozen=True)
class Disk:
    """Seconds a byte: written for the first time, written again, read.  Memory costs nothing."""

    first: float = 0.0
    write: float = 0.0
    read: float = 0.0


class Forecast:
    """What each tile of each sweep costs: ``a_pixel`` seconds of the whole network (1: not known), ``disk``
    for the stream of ``itemsize`` bytes a value."""

    def __init__(
        self, model: reference.SeemoRe, grid: Grid, images: int, itemsize: int, a_pixel: float, disk: Disk
    ):
        config, self._grid, self._disk = model.config, grid, disk
        self._layers, width = config["num_layers"], config["embedding_dim"]
        # A layer has 14.5 * width^2 multiply-adds a pixel.
        self._tail = _DENSE * 9 * (width + config["in_chans"] * model.scale**2) / (14.5 * width)
        self._layer = images * a_pixel / (self._layers + self._tail)
        self._bytes = images * itemsize * width

    def tiles(self) -> Iterator[float]:
        """Seconds of each, in their order."""
        spans = list(product(self._grid.rows.spans, self._grid.columns.spans))
        for sweep in range(self._layers + 1):
            last = sweep == self._layers
            layers = (sweep > 0) + (self._tail if last else _POOL)
            written = 0.0 if sweep == 0 or last else self._disk.first if sweep == 1 else self._disk.write
            read = self._disk.read if sweep > 1 else 0.0
            for rows, columns in spans:
                crop, own = crop_size(rows) * crop_size(columns), len(rows) * len(columns)
                yield layers * self._layer * crop + self._bytes * (read * crop + written * own)


def seconds_a_pixel(model: reference.SeemoRe, x: Tensor) -> float:
    """Of the network, by a small piece of x [N, C, H, W]; 0 where it is not worth the trial."""
    side = _TRIAL
    if x.shape[2] * x.shape[3] < 16 * side**2:
        return 0
    piece = x[:1, :, :side, :side]
    piece = piece.float() / 255 if piece.dtype == torch.uint8 else piece
    model(piece[:, :, : side // 4, : side // 4])  # packs weights and wakes threads
    begin = time.perf_counter()
    model(piece).cpu()
    return (time.perf_counter() - begin) / side**2


def measured_disk(folder: str | os.PathLike[str], size: int) -> Disk:
    """What a file of ``size`` bytes costs in ``folder``, by a small one.

    Memory holds a part of it, if there is some; a larger one waits for the disk itself.
    """
    block, times = bytearray(_BLOCK), []
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            for action in (
                lambda: file.write(bytes(block)),  # tiles are copied on their way, too
                lambda: file.write(bytes(block)),
                lambda: file.readinto(bytearray(_BLOCK)),
                lambda: os.fsync(file.fileno()),
            ):
                file.seek(0)
                begin = time.perf_counter()
                action()
                times.append((time.perf_counter() - begin) / _BLOCK)
    except OSError:  # the file of tiles will say it
        return Disk()
    first, write, read, synced = times
    wait = synced if size > machine.free_memory() / 2 else 0.0
    return Disk(first + wait, write + wait, read + wait)


def in_words(seconds: float) -> str:
    """``95 s``, ``12 min`` or ``1.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
