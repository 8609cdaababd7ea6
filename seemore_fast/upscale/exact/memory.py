"""How much memory upscaling an image takes, whole or in tiles, and which tile fits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seemore_fast.engines import cuda_graphs
from seemore_fast.errors import SeemoreError
from seemore_fast.model import SeemoRe
from seemore_fast.network import reference
from seemore_fast.upscale.exact import cuda
from seemore_fast.upscale.exact.grid import Grid, Tile, crop_size
from seemore_fast.upscale.exact.native import native_area, ranks_of
from seemore_fast.upscale.exact.stages import Way, way_for
from seemore_fast.upscale.exact.store import Layout

_TILES = (2048, 1536, 1024, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32)

_COMFORTABLE = 512
"""Smaller tiles compute so much twice that larger ones with the stream in a file are faster."""


def memory_needed(
    model: reference.SeemoRe,
    n: int,
    h: int,
    w: int,
    tile: int,
    *,
    stream_in_file: bool = False,
    itemsize: int = 1,
) -> int:
    """Bytes that upscaling (n, in_chans, h, w) adds at its peak: working memory, and output at hand.

    ``tile``: as for `upscale_exact`, or 0 for one call of the model, whose output is whole.
    ``itemsize``: bytes of one value of it, 1 for uint8, 4 for float32.
    """
    h, w = max(h, model.min_size), max(w, model.min_size)
    with torch.no_grad():
        way = way_for(model, _probe(model, 1, h, w)) if tile else Way("plain")
    grid = way.grid(model, h, w, tile or max(h, w))
    output = itemsize * n * model.config["in_chans"] * w * model.scale**2  # for each row of the input
    if grid.count == 1:
        return _whole_work(model, n, h, w) + output * h
    values = 0 if stream_in_file else n * Layout(grid, model.config["embedding_dim"]).size
    if way.kind == "cuda":  # whose output is elsewhere
        width = cuda.width_of(model, _probe(model, 1, h, w))
        return cuda.work(model, way.packed, grid, n, width, itemsize) + width * values
    rows = max(len(span) for span in grid.rows.spans)
    work = _tile_work(model, way.packed, grid, itemsize) + _maps(model, way.packed, n, grid)
    return work + 4 * values + output * rows


def choose_tile(
    model: reference.SeemoRe, n: int, h: int, w: int, available: int, *, itemsize: int = 1
) -> int:
    """The largest tile that fits into ``available`` bytes; 0 if the whole image does, its output in float32.

    ``itemsize``: of tiles, as for `memory_needed`.

    Raises SeemoreError, saying how much is needed, if not even the smallest tile fits.
    """
    if memory_needed(model, n, h, w, 0, itemsize=4) <= available:
        return 0

    def needed(tile: int, stream_in_file: bool) -> int:
        return memory_needed(model, n, h, w, tile, stream_in_file=stream_in_file, itemsize=itemsize)

    def largest(stream_in_file: bool) -> int | None:
        def fits(tile: int) -> bool:
            # One tile would be the whole image.
            return tile < max(h, w) and needed(tile, stream_in_file) <= available

        return next(filter(fits, _TILES), None)

    tile = largest(stream_in_file=False)
    if tile is None or tile < _COMFORTABLE:
        tile = largest(stream_in_file=True)
    if tile is None:
        least = needed(_TILES[-1], stream_in_file=True) / 2**20
        raise SeemoreError(
            f"{w} x {h} pixels need at least {least:.0f} MiB of memory, {available / 2**20:.0f} are available"
        )
    return tile


def _probe(model: reference.SeemoRe, n: int, h: int, w: int) -> Tensor:
    """Input of this shape where the model is, without memory."""
    one = torch.empty(1, model.config["in_chans"], 1, 1, dtype=torch.uint8, device=model.conv_1.weight.device)
    return one.expand(n, -1, h, w)


def _whole_work(model: reference.SeemoRe, n: int, h: int, w: int) -> int:
    """Of one call, besides its output in uint8."""
    if not isinstance(model, SeemoRe):
        return _plain_work(model, n * h * w)
    with torch.no_grad():
        found = model.packed_for(_probe(model, n, h, w))
    if found is None:
        return _plain_work(model, n * h * w)
    engine, packed = found
    if engine is model.engine:
        return _native_work(model, packed, n, h, w)
    pixels = n * model.config["in_chans"] * h * w * (1 + model.scale**2)
    held = packed.workspace(_probe(model, n, h, w)) + 4 * pixels  # which are float32 on a GPU
    return 2 * held if held <= cuda_graphs.MOST_BYTES else held  # a graph has memory of its own


def _native_work(model: SeemoRe, packed: Any, n: int, h: int, w: int) -> int:
    try:
        return packed.workspace(h, w, torch.get_num_threads(), model.workspace_limit, n)
    except MemoryError:  # the limit is below the least need: the call itself will say so
        return packed.workspace(h, w, torch.get_num_threads(), 0, n)


def _plain_work(model: reference.SeemoRe, pixels: int) -> int:
    """Of the plain network: the peak is inside a GatedFFN.  Measured (docs/tiling.md)."""
    width = max(model.conv_1.weight.dtype.itemsize, 4)
    return int((8.7 * model.config["embedding_dim"] + 76) * width * pixels)


def _tile_work(model: reference.SeemoRe, packed: Any, grid: Grid, itemsize: int) -> int:
    """Of the largest tile: its stream, what a stage needs beside it, and its output."""
    tile = Tile(*(max(axis.spans, key=crop_size) for axis in (grid.rows, grid.columns)))
    pixels = crop_size(tile.rows) * crop_size(tile.columns)
    stream = 4 * model.config["embedding_dim"] * pixels
    if packed is None:
        return _plain_work(model, pixels) + stream
    output = itemsize * model.config["in_chans"] * model.scale**2 * len(tile.rows) * len(tile.columns)
    return packed.tile_workspace(native_area(grid, tile), torch.get_num_threads()) + stream + output


def _maps(model: reference.SeemoRe, packed: Any, n: int, grid: Grid) -> int:
    """The next layer's aggregated maps, and the maps in use: natively R channels wide, else C."""
    height, width = grid.low_size
    channels = model.config["embedding_dim"]
    in_use = (n + 1) * channels if packed is None else n * ranks_of(model)
    return 4 * (n * channels + in_use) * height * width
