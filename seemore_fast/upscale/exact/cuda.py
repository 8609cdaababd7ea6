"""The stages of a tile by the CUDA engine: each is one call, which starts its kernels on the current stream.

Every pixel comes out to the bit as in one call of the network: crops begin where the engine's own tiles do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from seemore_fast.engines.cuda_engine import PIXELS, Network, aligned, precision_for
from seemore_fast.model import SeemoRe
from seemore_fast.network import reference
from seemore_fast.upscale.exact.grid import Grid, Span, Tile, crop_size

STEP = 32
"""Crops begin at multiples of it (csrc/seemore_cuda.h)."""

_HEAD, _POOL, _CALIBRATE, _GROUP, _TAIL = range(5)  # sm_phase of csrc/seemore.h


@dataclass(frozen=True)
class Shape:
    """Sizes of what the engine keeps of an image of ``height`` x ``width``, or of a crop of it."""

    channels: int  # C, padded
    ranks: int  # R, padded
    router: tuple[int, int]  # height and width of the tiles of pixels whose logits are summed at once
    map_element: int  # bytes of a value of the map
    workspace: int  # bytes for any phase

    def low(self, height: int, width: int) -> tuple[int, int, int]:
        """Of the first aggregation, float32."""
        return height // 4, width // 4, self.channels

    def partial(self, height: int, width: int, experts: int) -> tuple[int, int, int]:
        """Of the tiles' logits, float32."""
        rows, columns = self.router
        return -(-height // rows), -(-width // columns), experts


def shape_of(network: Network, grid: Grid, height: int, width: int) -> Shape:
    """For crops of that size."""
    layout = network.native.tile_layout(grid.height, grid.width, height, width)
    channels, ranks, router_rows, router_columns, map_element, workspace = layout
    return Shape(channels, ranks, (router_rows, router_columns), map_element, workspace)


@dataclass(frozen=True)
class Gathered:
    """Of the whole image: k aggregated once, and the partial logits of the router."""

    low: Tensor
    partial: Tensor


@dataclass(frozen=True)
class Known:
    """Of the whole image: the map, the experts' weights for each of the ranks, and their biases."""

    map: Tensor
    weight: Tensor
    bias: Tensor


class CudaStages:
    """`PlainStages`' interface; streams are views of [rows, columns, C padded] of the engine's dtype."""

    def __init__(self, model: SeemoRe, network: Network, x: Tensor, grid: Grid):
        self._network, self._grid = network, grid
        config = model.config
        self._dim, self._in_chans, self._scale = config["embedding_dim"], config["in_chans"], model.scale
        self._experts, self._ratio = config["num_experts"], 4 ** config["recursive"]
        self._limit = model.workspace_limit
        self.device = model.conv_1.weight.device
        self.dtype = _dtype_of(model, x)
        # Of one crop at a time, as is the workspace. Padding channels are zero, and stay so.
        self._stream = self._workspace = torch.empty(0)
        self._whole = shape_of(network, grid, grid.height, grid.width)
        self._map_dtype = torch.float32 if self._whole.map_element == 4 else self.dtype

    def new_stream(self, tile: Tile) -> Tensor:
        shape = crop_size(tile.rows), crop_size(tile.columns), self._whole.channels
        if self._stream.numel() < (count := prod(shape)):
            self._stream = torch.empty(0)  # before the larger one is made
            self._stream = self._new(shape, self.dtype).zero_().flatten()
        return self._stream[:count].view(shape).transpose(1, 2)[:, : self._dim]

    def new_pool(self) -> Gathered:
        return self._gathered(self._grid.height, self._grid.width)

    def head(self, image: Tensor, tile: Tile) -> Tensor:
        stream = self.new_stream(tile)
        self._run(_HEAD, 0, tile, stream=stream, input=self._values(image))
        return stream

    def pool(self, g: int, stream: Tensor, tile: Tile, gathered: Gathered) -> None:
        part = self._gathered(crop_size(tile.rows), crop_size(tile.columns))
        self._run(_POOL, g, tile, stream=stream, low=part.low, partial=part.partial)
        rows, columns = tile.rows, tile.columns
        for whole, crop, steps in (
            (gathered.low, part.low, (4, 4)),
            (gathered.partial, part.partial, self._whole.router),
        ):
            own = _own(rows, steps[0], whole.shape[0]), _own(columns, steps[1], whole.shape[1])
            inner = (
                slice(o.start - span.crop_start // step, o.stop - span.crop_start // step)
                for o, span, step in zip(own, (rows, columns), steps, strict=True)
            )
            whole[own] = crop[tuple(inner)]

    def calibrate(self, g: int, gathered: Gathered) -> Known:
        low_size = self._grid.low_size
        known = Known(
            self._new((*low_size, self._whole.ranks), self._map_dtype),
            self._new((self._whole.ranks,)),
            self._new((self._whole.channels,)),
        )
        self._run(_CALIBRATE, g, self._grid.first, **vars(gathered), **vars(known))
        return known

    def group(self, g: int, stream: Tensor, tile: Tile, known: Known) -> Tensor:
        part = self._gathered(crop_size(tile.rows), crop_size(tile.columns))
        self._run(_GROUP, g, tile, stream=stream, **vars(part), **vars(known))
        return stream

    def tail(self, stream: Tensor, image: Tensor, tile: Tile) -> Tensor:
        values = self._values(image)
        size = crop_size(tile.rows) * self._scale, crop_size(tile.columns) * self._scale
        out = values.new_empty((self._in_chans, *size))
        self._run(_TAIL, 0, tile, stream=stream, input=values, output=out)
        rows, columns = (
            slice(span.inner.start * self._scale, span.inner.stop * self._scale)
            for span in (tile.rows, tile.columns)
        )
        return out[:, rows, columns].to(image.dtype)

    def _gathered(self, height: int, width: int) -> Gathered:
        """To be filled, of the image or of a crop."""
        low = self._new(self._whole.low(height, width))
        return Gathered(low, self._new(self._whole.partial(height, width, self._experts)))

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory as the engine wants it, not filled."""
        return aligned(prod(shape) * dtype.itemsize, self.device).view(dtype).view(shape)

    def _values(self, image: Tensor) -> Tensor:
        """A crop's pixels [in_chans, rows, columns] as memory that a pointer shows."""
        wide = image if image.dtype in PIXELS else image.float()
        return wide.to(self.device).resolve_neg().contiguous()

    def _run(self, phase: int, g: int, tile: Tile, **tensors: Tensor) -> None:
        rows, columns = tile.rows, tile.columns
        size = crop_size(rows), crop_size(columns)
        needed = shape_of(self._network, self._grid, *size).workspace
        if 0 < self._limit < needed:
            raise MemoryError(f"workspace_limit of {self._limit} bytes is too small: at least {needed}")
        if self._workspace.numel() < needed:
            self._workspace = torch.empty(0)
            self._workspace = aligned(needed, self.device)
        area = [self._grid.height, self._grid.width, rows.crop_start, columns.crop_start, *size]
        pixels = PIXELS.index(tensors["input"].dtype) if "input" in tensors else 0
        pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        self._network.tile(phase, g, area, self._workspace, pixels=pixels, **pointers)


def _dtype_of(model: reference.SeemoRe, x: Tensor) -> torch.dtype:
    precision = precision_for(model, x)
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)


def width_of(model: reference.SeemoRe, x: Tensor) -> int:
    """Bytes of a value of the stream, for input like ``x``."""
    return _dtype_of(model, x).itemsize


def work(
    model: reference.SeemoRe, network: Network, grid: Grid, images: int, width: int, itemsize: int
) -> int:
    """Bytes on the GPU for the largest tile, its pixels in and out, and what is kept of ``images`` whole.

    ``width``: of a value of the stream; ``itemsize``: of pixels.
    """
    config, scale = model.config, model.scale
    rows, columns = (max(map(crop_size, axis.spans)) for axis in (grid.rows, grid.columns))
    shape = shape_of(network, grid, rows, columns)
    experts = config["num_experts"]

    def gathered(height: int, across: int) -> int:
        return 4 * (prod(shape.low(height, across)) + prod(shape.partial(height, across, experts)))

    stream = width * shape.channels * rows * columns
    # The tile is cut out of the crop once more on its way to the host.
    pixels = itemsize * config["in_chans"] * rows * columns * (1 + 2 * scale**2)
    known = shape.map_element * prod(grid.low_size) * shape.ranks + 4 * (shape.ranks + shape.channels)
    kept = images * (gathered(grid.height, grid.width) + known)
    return shape.workspace + stream + gathered(rows, columns) + pixels + kept


def _own(span: Span, step: int, whole: int) -> slice:
    """A tile within a map ``step`` times smaller that has ``whole`` positions."""
    return slice(span.start // step, min(-(-span.stop // step), whole))
