"""The stages of a tile by the native CPU engine: each is one call, on as many threads as torch has."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends import native
from seemore_fast.model import SeemoRe
from seemore_fast.network import reference
from seemore_fast.upscale.exact.grid import Grid, Tile, crop_size
from seemore_fast.upscale.exact.route import Pooled, Routing, Whole, pooled, route

_COLUMNS = 16
"""Rows are padded to multiples of it, and maps by as much on either side (csrc/seemore.h)."""


class NativeStages:
    """`PlainStages`' interface; streams are views of padded rows, maps are as csrc/seemore.h has them."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, model: SeemoRe, packed: Any, grid: Grid):
        self._engine, self._packed, self._grid = model.engine, packed, grid
        self._phase = native.require().Phase
        config = model.config
        self._dim, self._in_chans, self._scale = config["embedding_dim"], config["in_chans"], model.scale
        self._ranks = ranks_of(model)
        groups: Any = model.body
        self._routers = [group.local_block.block.moe_layer for group in groups]
        # Of one crop at a time: fresh memory for each would cost a good part of the work on it.
        self._stream = torch.empty(0)

    def new_stream(self, tile: Tile) -> Tensor:
        rows, columns = crop_size(tile.rows), crop_size(tile.columns)
        shape = rows, _round_up(self._dim, 4), _round_up(columns, _COLUMNS)
        count = math.prod(shape)
        if self._stream.numel() < count:
            self._stream = torch.empty(count)
        return self._stream[:count].view(shape)[:, : self._dim, :columns]

    def new_pool(self) -> Pooled:
        return pooled(self._dim, self._map(self._dim))

    def _map(self, channels: int) -> Tensor:
        rows, columns = self._grid.low_size
        return torch.zeros(rows, _round_up(channels, 4), _round_up(columns, _COLUMNS) + 2 * _COLUMNS)

    def head(self, image: Tensor, tile: Tile) -> Tensor:
        stream = self.new_stream(tile)
        self._run(self._phase.HEAD, 0, tile, stream=stream, input=_values(image))
        return stream

    def pool(self, g: int, stream: Tensor, tile: Tile, pooled: Pooled) -> None:
        sums = torch.empty(self._dim, dtype=torch.float64)
        self._run(self._phase.POOL, g, tile, stream=stream, sums=sums, aggregated=pooled.aggregated)
        pooled.sums += sums

    def calibrate(self, g: int, pooled: Pooled) -> Whole:
        routing = route(self._routers[g], pooled.sums, self._grid.height * self._grid.width)
        result = self._map(self._ranks)
        self._run(self._phase.CALIBRATE, g, self._grid.first, aggregated=pooled.aggregated, map=result)
        return Whole(routing, result)

    def group(self, g: int, stream: Tensor, tile: Tile, whole: Whole) -> Tensor:
        self._run(self._phase.GROUP, g, tile, whole.routing, stream=stream, map=whole.map)
        return stream

    def tail(self, stream: Tensor, image: Tensor, tile: Tile) -> Tensor:
        values = _values(image)
        rows, columns = len(tile.rows) * self._scale, len(tile.columns) * self._scale
        out = torch.empty(self._in_chans, rows, columns, dtype=values.dtype)
        self._run(self._phase.TAIL, 0, tile, stream=stream, input=values, output=out)
        return out.to(image.dtype)

    def _run(self, phase: Any, g: int, tile: Tile, routing: Routing | None = None, **tensors: Tensor) -> None:
        area, threads = native_area(self._grid, tile), torch.get_num_threads()
        with self._engine.workspace(self._packed.tile_workspace(area, threads)) as workspace:
            self._packed.tile(
                phase,
                g,
                area,
                threads,
                workspace.data_ptr(),
                workspace.numel(),
                u8="input" in tensors and tensors["input"].dtype == torch.uint8,
                experts=routing.experts if routing else [],
                weights=routing.weights if routing else [],
                **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            )


def ranks_of(model: reference.SeemoRe) -> int:
    """The sum of the experts' ranks: channels of a calibrated map."""
    return sum(reference.expert_ranks(model.config["num_experts"], model.config["lr_space"]))


def native_area(grid: Grid, tile: Tile) -> list[int]:
    """What the binding takes: size of the image, where the crop begins, its size, the tile within it."""
    rows, columns = tile.rows, tile.columns
    return [
        grid.height,
        grid.width,
        rows.crop_start,
        columns.crop_start,
        crop_size(rows),
        crop_size(columns),
        rows.inner.start,
        rows.inner.stop,
        columns.inner.start,
        columns.inner.stop,
    ]


def _values(image: Tensor) -> Tensor:
    """A crop's pixels [in_chans, rows, columns] as memory that a pointer shows."""
    wide = image if image.dtype == torch.uint8 else image.float()
    return wide.cpu().resolve_neg().contiguous()


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to
