"""The stages of a tile in plain PyTorch: any device and dtype, autocast; what faster stages are held to.

A crop is treated as an image of its own: near a border that is not the picture's its values are wrong, and
the wrong part grows with each stage, but never beyond the halo.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seemore_fast.network import reference
from seemore_fast.upscale.exact.grid import Grid, Span, Tile, crop_size
from seemore_fast.upscale.exact.route import Pooled, Whole, pooled, route


class PlainStages:
    """Streams are [rows, C, columns], views of what modules take; maps are [1, C, rows, columns]."""

    def __init__(self, model: reference.SeemoRe, grid: Grid):
        self._model, self._grid = model, grid
        weight = model.conv_1.weight
        self.device = weight.device
        self.dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32

    def new_stream(self, tile: Tile) -> Tensor:
        """A crop's stream, to be filled; it may lie where the last one did."""
        return _rows_first(self._new(crop_size(tile.rows), crop_size(tile.columns)))

    def new_pool(self) -> Pooled:
        """What `pool` gathers of one image, tile by tile."""
        return pooled(self._model.config["embedding_dim"], self._new(*self._grid.low_size))

    def _new(self, rows: int, columns: int) -> Tensor:
        channels = self._model.config["embedding_dim"]
        return torch.empty(1, channels, rows, columns, dtype=self.dtype, device=self.device)

    def head(self, image: Tensor, tile: Tile) -> Tensor:
        """The crop's stream before the first group, from its pixels [in_chans, rows, columns]."""
        return _rows_first(self._model.head(self._pixels(image)).to(self.dtype))

    def pool(self, g: int, stream: Tensor, tile: Tile, pooled: Pooled) -> None:
        """Adds to ``pooled`` what group ``g`` must know of the tile."""
        rme: Any = self._model.body[g].local_block
        x, k = rme.block.split(rme.norm_1(self._channels_first(stream)))
        inner = (..., tile.rows.inner, tile.columns.inner)
        low: Any = (..., *(span.low(self._grid.ratio) for span in (tile.rows, tile.columns)))
        part = pooled.aggregated[low]
        if part.numel() > 0:
            part.copy_(rme.block.aggregate(k[inner]))
        wide = torch.float32 if x.device.type == "mps" else torch.float64  # Apple's GPUs have none
        pooled.sums += x[inner].sum((0, 2, 3), dtype=wide).cpu()

    def calibrate(self, g: int, pooled: Pooled) -> Whole:
        """What group ``g`` must know of the image, once all its tiles have been pooled."""
        block: Any = self._model.body[g].local_block.block  # type: ignore[union-attr]
        routing = route(block.moe_layer, pooled.sums, self._grid.height * self._grid.width)
        return Whole(routing, block.conv(pooled.aggregated.to(self._model.conv_1.weight.dtype)))

    def group(self, g: int, stream: Tensor, tile: Tile, whole: Whole) -> Tensor:
        """The stream behind group ``g``."""
        group: Any = self._model.body[g]
        rme = group.local_block
        features = self._channels_first(stream)
        x, k = rme.block.split(rme.norm_1(features))
        k = k + self._resize(whole.map, tile).to(k.dtype)
        weights = torch.zeros(1, len(rme.block.moe_layer.experts), dtype=self.dtype, device=self.device)
        weights[0, whole.routing.experts] = torch.tensor(
            whole.routing.weights, dtype=self.dtype, device=self.device
        )
        features = features + rme.block.proj(rme.block.moe_layer.mix(x, k, weights))
        features = features + rme.ffn(rme.norm_2(features))
        return _rows_first(group.global_block(features).to(self.dtype))

    def tail(self, stream: Tensor, image: Tensor, tile: Tile) -> Tensor:
        """The tile's larger pixels [in_chans, rows * scale, columns * scale], of the image's dtype."""
        pixels, scale = self._pixels(image), self._model.scale
        out = self._model.tail(self._channels_first(stream), self._model.head(pixels))
        rows, columns = (
            slice(span.inner.start * scale, span.inner.stop * scale) for span in (tile.rows, tile.columns)
        )
        out = out[0, :, rows, columns] + self._model.mean.to(pixels.dtype)
        if image.dtype == torch.uint8:
            return (out.float() * 255).round().clamp(0, 255).to(torch.uint8)
        return out.to(image.dtype)

    def _pixels(self, image: Tensor) -> Tensor:
        image = image[None].to(self.device)
        return image.to(self._model.conv_1.weight.dtype) / 255 if image.dtype == torch.uint8 else image

    def _channels_first(self, x: Tensor) -> Tensor:
        """The network's own dtype, unless that is narrower than the stream's and autocast chooses."""
        return x.transpose(0, 1)[None].to(self._model.conv_1.weight.dtype)

    def _resize(self, low: Tensor, tile: Tile) -> Tensor:
        """A crop of the map resized to the whole image, bilinearly with align_corners=False."""
        top, bottom, y = self._taps(tile.rows, low.shape[2], self._grid.height)
        left, right, x = self._taps(tile.columns, low.shape[3], self._grid.width)
        near = low[:, :, top].lerp(low[:, :, bottom], y[:, None].to(low.dtype))
        return near[..., left].lerp(near[..., right], x.to(low.dtype))

    def _taps(self, span: Span, size: int, full: int) -> tuple[Tensor, Tensor, Tensor]:
        """For each position of a crop: the two positions of the map to read, and the second one's weight."""
        at = torch.arange(span.crop_start, span.crop_stop, dtype=torch.float64)
        source = ((at + 0.5) * size / full - 0.5).clamp(min=0)
        near = source.long().clamp(max=size - 1)
        far = (near + 1).clamp(max=size - 1)
        return near.to(self.device), far.to(self.device), (source - near).to(self.dtype).to(self.device)


def _rows_first(x: Tensor) -> Tensor:
    """[1, C, rows, columns] -> [rows, C, columns], a view."""
    return x[0].transpose(0, 1)
