"""A picture's pixels as a batch of network inputs, and the network's output rows as pixels again.

Colour is one image of the batch and alpha, if there is any, a gray one behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from seemore_fast.backends.devices import to_device, to_host
from seemore_fast.errors import BackendError, ImageError

HIGHEST = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}
"""The dtypes that pixels may have, and what white and opaque are in each."""

_CHUNK = 512  # rows worked on at a time: temporary arrays stay small beside the picture


class Layers:
    """One picture on its way through a network of ``channels`` input channels.

    ``pixels`` is (H, W, C) uint8, uint16 or float32 in [0, 1]: C = 1 gray, 2 gray and alpha, 3 colour, 4
    colour and alpha, alpha being straight; or C = ``channels``.  Gray is repeated over the network's
    channels and averaged back.

    Invisible pixels first take the colour of their visible surroundings, so that whatever colour they hid
    leaves no fringe along the edge; and where alpha is constant over 3x3 pixels it stays exactly so.

    ``batch`` is [N, channels, H, W] on ``device``: uint8 in 0..255 or float32 in [0, 1].

    Raises ImageError for another kind of array.
    """

    def __init__(self, pixels: NDArray[Any], channels: int, device: torch.device):
        check_pixels(pixels, channels)
        layers = [pixels]
        self._alpha: NDArray[Any] | None = None
        if pixels.shape[2] in (2, 4) and pixels.shape[2] != channels:
            self._alpha = pixels[..., -1:]
            layers = [_fill_invisible(pixels[..., :-1], self._alpha)]
            if self._alpha.min() < self._alpha.max():
                layers.append(self._alpha)
        self._gray = [layer.shape[2] == 1 < channels for layer in layers]
        planes = [_to_tensor(layer, device).expand(channels, -1, -1) for layer in layers]
        self.batch = torch.stack(planes)

    def pixels(self, first_row: int, rows: Tensor, dtype: DTypeLike) -> NDArray[Any]:
        """The network's output rows as pixels (h, W * scale, C): clamped, rounded if ``dtype`` is an integer.

        ``rows`` is [N, channels, h, W * scale] in floating point, or uint8 in 0..255, from output row
        ``first_row`` on.

        Raises BackendError if a value is not finite.
        """
        rows = rows.float() / 255 if rows.dtype == torch.uint8 else rows.float()
        if not rows.sum().isfinite():
            raise BackendError("the network's output is not finite; use fp32 and sound weights")
        # Clamped before gray is averaged: so it is in tiles that come as integers.
        parts = zip(rows.clamp(0, 1), self._gray, strict=True)
        out = _to_array(torch.cat([x.mean(0, keepdim=True) if gray else x for x, gray in parts]), dtype)
        if self._alpha is None:
            return out
        if len(rows) == 1:
            value = converted(self._alpha[:1, :1], dtype)
            return np.concatenate([out, np.broadcast_to(value, (*out.shape[:2], 1))], axis=2)
        _keep_constant_areas(out[..., -1], first_row, self._alpha[..., 0])
        return out


def check_pixels(pixels: NDArray[Any], channels: int) -> None:
    """Raises ImageError unless a network of ``channels`` input channels can take ``pixels`` (H, W, C)."""
    found = f"{pixels.dtype} of shape {pixels.shape}"
    if pixels.dtype not in HIGHEST:
        raise ImageError(f"image must be uint8, uint16 or float32 in [0, 1], not {found}")
    if pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] not in (1, 2, 3, 4, channels):
        raise ImageError(f"image must be of shape (H, W) or (H, W, C), C from 1 to 4, not {found}")
    if pixels.shape[2] not in (1, 2, channels, channels + 1):
        raise ImageError(f"the model takes {channels}-channel pictures, not {found}")
    # Written so that NaN is refused too.
    if pixels.dtype == np.float32 and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ImageError(
            f"a float32 image must lie in [0, 1], this one in [{pixels.min():g}, {pixels.max():g}]; "
            "divide or clip it first"
        )


def _to_tensor(layer: NDArray[Any], device: torch.device) -> Tensor:
    """(H, W, C) -> [C, H, W] on ``device``, uint8 or float32 in [0, 1]."""
    if layer.dtype == np.uint16:
        layer = layer.astype(np.float32) / 65535
    return to_device(torch.tensor(np.ascontiguousarray(layer)), device).permute(2, 0, 1)


def _to_array(x: Tensor, dtype: DTypeLike) -> NDArray[Any]:
    """[C, h, w] float32 in [0, 1] -> (h, w, C), rounded."""
    highest = HIGHEST[np.dtype(dtype)]
    if highest > 1:
        x = x.mul(highest).round_().to(torch.uint8 if highest == 255 else torch.int32)
    return to_host(x.permute(1, 2, 0).contiguous()).numpy().astype(dtype, copy=False)


def converted(pixels: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """The same values in another of the dtypes, rounded."""
    if pixels.dtype == dtype:
        return pixels
    ratio = HIGHEST[np.dtype(dtype)] / HIGHEST[pixels.dtype]
    scaled = pixels * ratio
    return (scaled if np.dtype(dtype) == np.float32 else scaled.round()).astype(dtype)


def _fill_invisible(colour: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Gives pixels of alpha 0 the mean colour of the nearest visible ones, by a pyramid of 2x2 sums."""
    if alpha.all() or not alpha.any():
        return colour

    def known(weighted: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean colours of a level of the pyramid, those of the coarser level where nothing is visible."""
        mean: NDArray[Any] = weighted / np.where(weight > 0, weight, 1)
        if weight.all():
            return mean
        h, w = weight.shape[:2]
        coarse = known(_sum_2x2(weighted), _sum_2x2(weight)).repeat(2, axis=0).repeat(2, axis=1)
        return np.where(weight > 0, mean, coarse[:h, :w])

    # The finest level goes by pieces: in floating point it would be several times the picture.
    starts = range(0, len(alpha), _CHUNK)
    sums = []
    for y in starts:
        weight = alpha[y : y + _CHUNK].astype(np.float32)
        sums.append((_sum_2x2(colour[y : y + _CHUNK] * weight), _sum_2x2(weight)))
    coarse = known(*(np.concatenate(level) for level in zip(*sums, strict=True)))
    if colour.dtype != np.float32:
        coarse = coarse.round()
    filled = colour.copy()
    for y in starts:
        ys, xs = np.nonzero(alpha[y : y + _CHUNK, :, 0] == 0)
        filled[ys + y, xs] = coarse[(ys + y) // 2, xs // 2]
    return filled


def _sum_2x2(x: NDArray[np.float32]) -> NDArray[np.float32]:
    h, w, c = x.shape
    even = np.pad(x, ((0, h % 2), (0, w % 2), (0, 0)))
    return even.reshape((h + 1) // 2, 2, (w + 1) // 2, 2, c).sum((1, 3))


def _keep_constant_areas(larger: NDArray[Any], first_row: int, alpha: NDArray[Any]) -> None:
    """Puts back, in place, what the network made of constant areas: opaque must not become 254.

    ``larger`` (h, W * scale) are output rows of alpha from ``first_row`` on, ``alpha`` (H, W) is the input.
    """
    scale = larger.shape[1] // alpha.shape[1]
    top, bottom = first_row // scale, -(-(first_row + len(larger)) // scale)
    above, below = max(top - 1, 0), min(bottom + 1, len(alpha))
    plane = torch.from_numpy(alpha[above:below].astype(np.float32))[None, None]
    highest = F.max_pool2d(plane, 3, stride=1, padding=1)
    lowest = -F.max_pool2d(-plane, 3, stride=1, padding=1)
    constant = (highest == lowest)[0, 0].numpy()[top - above : bottom - above]
    values = converted(alpha[top:bottom], larger.dtype)
    inside = slice(first_row - top * scale, first_row - top * scale + len(larger))
    constant, values = (x.repeat(scale, axis=0).repeat(scale, axis=1)[inside] for x in (constant, values))
    larger[constant] = values[constant]
