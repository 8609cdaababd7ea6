"""What the network sees beyond the picture's edge: zeros, its mirror image, or its other side.

The network's convolutions pad with zeros, as it was trained.  On flat saturated pictures that shows as a
frame (up to 18 of 255 away from the middle, t-x4 on green); with mirrored pixels around, cut off again,
edge and middle are the same, for all eight corners of the colour cube.

Zero stays the default: it is what papers measure, and on photographs mirroring gains nothing (Set5, PSNR:
the first t-x2 37.26 with both, the first t-x4 31.32; of the outer 8 pixels 37.13 and 37.11, 30.70 and 30.69),
for 16 more pixels to compute on each side.
"""

from __future__ import annotations

import torch
from torch import Tensor

BORDERS = ("zero", "reflect", "wrap")

WIDTH = 16
"""Pixels around the picture: a cell of the network's coarse map, so that the others stay where they are."""


class Border:
    """Puts pixels around pictures and takes them off their enlargements, by ``scale``.

    ``kind``: zero (nothing is put there), reflect (mirrored at the edge, the edge's own pixel first, as
    bicubic interpolation has it), wrap (the other side: the results of textures go on without a seam).
    """

    def __init__(self, kind: str, scale: int):
        self.kind = kind
        self.width = 0 if kind == "zero" else WIDTH
        self._cut = self.width * scale

    def extended(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H + 2 * width, W + 2 * width]."""
        if not self.width:
            return x
        rows, columns = (self._indices(length).to(x.device) for length in x.shape[2:])
        return x[:, :, rows][..., columns]

    def cropped(self, first_row: int, rows: Tensor, height: int) -> tuple[int, Tensor]:
        """Rows [N, C, n, w] of an extended picture's enlargement from ``first_row`` on -> those of the
        picture's own, whose enlargement has ``height`` rows; perhaps none."""
        if not self._cut:
            return first_row, rows
        first_row -= self._cut
        kept = rows[:, :, max(-first_row, 0) : max(height - first_row, 0), self._cut : -self._cut]
        return max(first_row, 0), kept

    def _indices(self, length: int) -> Tensor:
        places = torch.arange(-self.width, length + self.width)
        if self.kind == "wrap":
            return places % length
        places = places % (2 * length)
        return torch.minimum(places, 2 * length - 1 - places)
