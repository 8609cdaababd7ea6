"""Who computes the stages of a tile: an engine that has them for this input, else plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from seemore_fast.model import SeemoRe
from seemore_fast.network import reference
from seemore_fast.upscale.exact import cuda
from seemore_fast.upscale.exact.grid import Grid, Tile, grid_for
from seemore_fast.upscale.exact.native import NativeStages
from seemore_fast.upscale.exact.plain import PlainStages


class Stages(Protocol):
    """What the sweeps need of an implementation; `PlainStages` describes each method.

    Streams are [rows, C, columns]; what is pooled, and what is then known of the whole image, is the
    implementation's own affair.
    """

    device: torch.device
    dtype: torch.dtype

    def new_stream(self, tile: Tile) -> Tensor: ...
    def new_pool(self) -> Any: ...
    def head(self, image: Tensor, tile: Tile) -> Tensor: ...
    def pool(self, g: int, stream: Tensor, tile: Tile, pooled: Any) -> None: ...
    def calibrate(self, g: int, pooled: Any) -> Any: ...
    def group(self, g: int, stream: Tensor, tile: Tile, whole: Any) -> Tensor: ...
    def tail(self, stream: Tensor, image: Tensor, tile: Tile) -> Tensor: ...


@dataclass(frozen=True)
class Way:
    """An implementation, and the network as its engine has packed it (None: plain PyTorch's)."""

    kind: Literal["plain", "cpu", "cuda"]
    packed: Any = None

    def grid(self, model: reference.SeemoRe, height: int, width: int, tile: int) -> Grid:
        """The tiles of an image, where this implementation wants them."""
        return grid_for(model, height, width, tile, cuda.STEP if self.kind == "cuda" else 4)


def way_for(model: reference.SeemoRe, x: Tensor) -> Way:
    """For input like ``x`` [N, in_chans, H, W]; without gradients."""
    if not isinstance(model, SeemoRe) or (found := model.packed_for(x)) is None:
        return Way("plain")
    engine, packed = found
    return Way("cpu" if engine is model.engine else "cuda", packed)


def stages_for(way: Way, model: reference.SeemoRe, x: Tensor, grid: Grid) -> Stages:
    """``grid``: one of the way's."""
    if way.kind == "plain" or not isinstance(model, SeemoRe):
        return PlainStages(model, grid)
    if way.kind == "cpu":
        return NativeStages(model, way.packed, grid)
    return cuda.CudaStages(model, way.packed, x, grid)
