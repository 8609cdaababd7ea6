"""Exact tiling: an image in pieces, with bounded memory and the same result as in one call.

The network sees a whole image in two ways only: routing (a mean over all pixels) and the low-resolution map
of calibrate.  Both are gathered tile by tile before a group runs, and kept for the whole image; everything
else reaches a few pixels far, which the tiles' halos hold.  docs/tiling.md has the scheme and its figures.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends.precision import autocast_dtype
from seemore_fast.errors import Cancelled, SeemoreError
from seemore_fast.model import extend
from seemore_fast.network import reference
from seemore_fast.upscale.exact.duration import (
    LONG,
    Disk,
    Forecast,
    in_words,
    measured_disk,
    seconds_a_pixel,
)
from seemore_fast.upscale.exact.grid import Grid, Span, Tile
from seemore_fast.upscale.exact.memory import choose_tile, memory_needed
from seemore_fast.upscale.exact.stages import Stages, Way, stages_for, way_for
from seemore_fast.upscale.exact.store import Layout, Store

__all__ = ["MIN_TILE", "choose_tile", "memory_needed", "upscale_exact"]

log = logging.getLogger(__name__)

MIN_TILE = 32

_PIECE = 96
"""Side of the tiles, four of them, that are tried in 16 bits."""

_ROUNDING = 7e-6
"""What they may add to the error of fp32, of which 1e-5 are allowed."""


def upscale_exact(
    model: reference.SeemoRe,
    x: Tensor,
    tile: int,
    emit: Callable[[int, Tensor], None],
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    *,
    memory: int | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> None:
    """``model(x)`` without gradients, computed in tiles, handed over in rows: the same up to rounding.

    ``x``: (N, in_chans, H, W), uint8 or floating point, on any device.  ``tile``: largest side of a tile in
    input pixels, at least 32.  ``emit(first_row, rows)`` gets the output from top to bottom, rows being
    (N, in_chans, some, W * scale) on the CPU, of ``x``'s dtype.  ``progress(done, total)``, in shares of the
    time, is called after each tile of each of the ``num_layers + 1`` sweeps, ``cancelled()`` before it.

    Between sweeps the residual stream (4 * embedding_dim bytes a pixel) stays in memory, if everything then
    fits into ``memory`` bytes (None: it may), else in a temporary file in ``folder`` (None: the system's), by
    16 bits where the network computes in 16, or pixels have 8 and a trial shows that 1e-5 is kept.  The log
    says so before it begins, with figures.

    Raises SeemoreError for a bad ``tile`` or a folder without room (before any work), Cancelled.
    """
    if tile < MIN_TILE:
        raise SeemoreError(f"tile must be at least {MIN_TILE} pixels for exact tiling, got {tile}")
    n, _, height, width = x.shape
    if min(height, width) < model.min_size:
        x = extend(x, max(height, model.min_size), max(width, model.min_size))
    with torch.no_grad():
        way = way_for(model, x)
    grid = way.grid(model, x.shape[2], x.shape[3], tile)

    def reporter(costs: list[int]) -> Callable[[], None]:
        steps, total = accumulate(costs, initial=0), sum(costs)

        def report() -> None:
            done = next(steps)
            if done > 0 and progress is not None:
                progress(done, total)
            if done < total and cancelled is not None and cancelled():
                raise Cancelled("cancelled")

        return report

    def emit_cropped(first: int, rows: Tensor) -> None:
        rows = rows[:, :, : height * model.scale - first, : width * model.scale]
        if rows.shape[2] > 0:
            emit(first, rows)

    with torch.no_grad():
        if grid.count == 1:
            report = reporter([1])
            report()
            emit_cropped(0, model(x).cpu())
            report()
            return
        stages = stages_for(way, model, x, grid)
        in_memory = (
            memory is None
            or memory_needed(model, n, height, width, tile, itemsize=x.element_size()) <= memory
        )
        place = None if in_memory else folder or tempfile.gettempdir()
        low = {model.conv_1.weight.dtype, autocast_dtype(x)} & {torch.bfloat16, torch.float16}
        halved = (
            place is not None
            and stages.dtype.itemsize > 2
            and (bool(low) or (x.dtype == torch.uint8 and _bears_16_bits(way, model, x, place)))
        )
        kept = torch.int16 if halved else stages.dtype
        size = kept.itemsize * n * Layout(grid, model.config["embedding_dim"]).size
        a_pixel = seconds_a_pixel(model, x)
        disk = measured_disk(place, size) if place is not None and a_pixel else Disk()
        costs = list(Forecast(model, grid, n, kept.itemsize, a_pixel or 1.0, disk).tiles())
        seconds = sum(costs) if a_pixel else 0.0
        if place is not None or seconds > LONG:
            told = f"{width}x{height} pixels are computed in {model.config['num_layers'] + 1} sweeps"
            told += f" of {grid.count} tiles"
            if seconds > 0:
                told += f", in about {in_words(seconds)}"
            if place is not None:
                told += f", with a temporary file of {size / 1e9:.2f} GB in {place}"
            log.warning("%s", told)
        report = reporter([max(round(1e6 * cost), 1) for cost in costs])
        with Store(grid, n, model.config["embedding_dim"], kept, stages.device, place) as store:
            _Sweeps(model, x, grid, stages, store, report).run(emit_cropped)


def _bears_16_bits(way: Way, model: reference.SeemoRe, x: Tensor, place: str | os.PathLike[str]) -> bool:
    """Whether the result stays within 1e-5 of the whole picture's where the file has 16 bits, on a piece."""
    piece = x[:1, :, : 2 * _PIECE, : 2 * _PIECE].float() / 255
    grid = way.grid(model, piece.shape[2], piece.shape[3], _PIECE)
    if grid.count == 1:
        return False
    want, bands = model(piece).cpu(), list[Tensor]()
    stages = stages_for(way, model, piece, grid)
    with Store(grid, 1, model.config["embedding_dim"], torch.int16, stages.device, place) as store:
        sweeps = _Sweeps(model, piece, grid, stages, store, lambda: None)
        sweeps.run(lambda _, rows: bands.append(rows))
    error = (torch.cat(bands, 2) - want).norm() / want.norm()
    return bool(error <= _ROUNDING)


@dataclass
class _Sweeps:
    """Sweep s computes the stream behind s groups, tile by tile, and with it what group s must know."""

    model: reference.SeemoRe
    x: Tensor  # [N, in_chans, H, W]
    grid: Grid
    stages: Stages
    store: Store
    report: Callable[[], None]  # called before each tile, and after the last
    known: list[Any] = field(default_factory=list)  # of each image, for the group that the sweep runs

    def run(self, emit: Callable[[int, Tensor], None]) -> None:
        layers = self.model.config["num_layers"]
        for sweep in range(layers):
            self._prepare(sweep)
        for rows in self.grid.rows.spans:
            emit(rows.start * self.model.scale, self._pixels(layers, rows))
        self.report()

    def _prepare(self, sweep: int) -> None:
        """All of a sweep but the last: then routing and map of the next group are there."""
        pooled = [self.stages.new_pool() for _ in self.x]
        for rows in self.grid.rows.spans:
            for tile in self._row_of_tiles(rows):
                for i in range(len(self.x)):
                    stream = self._stream(sweep, i, tile)
                    if sweep > 0:
                        self.store.write(sweep, i, tile, stream)
                    self.stages.pool(sweep, stream, tile, pooled[i])
                    del stream  # before the next one is made
        # One map after the other: of a large image they take much memory.
        self.known.clear()
        while pooled:
            self.known.append(self.stages.calibrate(sweep, pooled.pop(0)))

    def _pixels(self, sweep: int, rows: Span) -> Tensor:
        """A row of tiles of the output, (N, in_chans, rows * scale, W * scale)."""
        scale = self.model.scale
        size = len(rows) * scale, self.grid.width * scale
        out = torch.empty(*self.x.shape[:2], *size, dtype=self.x.dtype)
        for tile in self._row_of_tiles(rows):
            columns = slice(tile.columns.start * scale, tile.columns.stop * scale)
            for i in range(len(self.x)):
                stream = self._stream(sweep, i, tile)
                out[i, :, :, columns] = self.stages.tail(stream, self._image(i, tile), tile)
                del stream  # before the next one is made
        return out

    def _row_of_tiles(self, rows: Span) -> Iterator[Tile]:
        for columns in self.grid.columns.spans:
            self.report()
            yield Tile(rows, columns)

    def _image(self, i: int, tile: Tile) -> Tensor:
        return self.x[i, :, tile.rows.crop, tile.columns.crop]

    def _stream(self, sweep: int, i: int, tile: Tile) -> Tensor:
        """The stream of a crop behind ``sweep`` groups, right wherever pool and tail need it."""
        if sweep <= 1:
            stream = self.stages.head(self._image(i, tile), tile)
        else:
            stream = self.stages.new_stream(tile)
            self.store.read(sweep - 1, i, tile, stream)
        if sweep == 0:
            return stream
        return self.stages.group(sweep - 1, stream, tile, self.known[i])
