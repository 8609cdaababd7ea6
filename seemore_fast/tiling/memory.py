"""How much memory upscaling an image takes, whole or in tiles, and which tile fits."""

from __future__ import annotations

from .. import reference
from ..errors import SeemoreError
from .grid import Grid, grid_for
from .store import Layout

_TILES = (2048, 1536, 1024, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32)

_COMFORTABLE = 256
"""Smaller tiles compute so much twice that larger ones with the stream in a file are faster."""


def memory_needed(
    model: reference.SeemoRe, n: int, h: int, w: int, tile: int, *, stream_in_file: bool = False
) -> int:
    """Bytes that upscaling (n, in_chans, h, w) uint8 adds at its peak: working memory, and output at hand.

    ``tile``: as for `upscale_exact`, or 0 for one call of the model, whose output is whole.
    """
    h, w = max(h, model.min_size), max(w, model.min_size)
    grid = grid_for(model, h, w, tile or max(h, w))
    pixels = n * model.config["in_chans"] * w * model.scale**2  # of the output, for each row of the input
    if grid.count == 1:
        return _whole(model, n, h, w) + pixels * h
    rows = max(len(span) for span in grid.rows.spans)
    crop = grid.rows.largest_crop * grid.columns.largest_crop
    work = _plain_work(model, crop) + 4 * model.config["embedding_dim"] * crop
    stream = 0 if stream_in_file else 4 * n * Layout(grid, model.config["embedding_dim"]).size
    return work + stream + _maps(model, n, grid) + pixels * rows


def choose_tile(model: reference.SeemoRe, n: int, h: int, w: int, available: int) -> int:
    """The largest tile that fits into ``available`` bytes; 0 if the whole image does.

    Raises SeemoreError, saying how much is needed, if not even the smallest tile fits.
    """
    if memory_needed(model, n, h, w, 0) <= available:
        return 0
    in_memory = [t for t in _TILES if memory_needed(model, n, h, w, t) <= available]
    if in_memory and in_memory[0] >= _COMFORTABLE:
        return in_memory[0]
    needed = {t: memory_needed(model, n, h, w, t, stream_in_file=True) for t in _TILES}
    fitting = [t for t in _TILES if needed[t] <= available]
    if not fitting:
        least = min(needed.values()) / 2**20
        raise SeemoreError(
            f"{w} x {h} pixels need at least {least:.0f} MiB of memory, {available / 2**20:.0f} are available"
        )
    return fitting[0]


def _whole(model: reference.SeemoRe, n: int, h: int, w: int) -> int:
    return n * _plain_work(model, h * w)


def _plain_work(model: reference.SeemoRe, pixels: int) -> int:
    """Of the plain network over so many pixels: its peak is inside a GatedFFN; measured, docs/tiling.md."""
    width = max(model.conv_1.weight.dtype.itemsize, 4)
    return int((8.7 * model.config["embedding_dim"] + 76) * width * pixels)


def _maps(model: reference.SeemoRe, n: int, grid: Grid) -> int:
    """The map in use and the next one of each image, and one more while it is calibrated."""
    height, width = grid.low_size
    return (2 * n + 1) * 4 * model.config["embedding_dim"] * height * width
