"""Scene-linear light <-> what a network for pictures knows: sRGB's curve, and above white its logarithm.

Networks take 0..1 as displays have it.  Up to white the curve is sRGB's (IEC 61966-2-1); above, it goes on
with the same slope as a logarithm, so that the sun costs the rest little contrast;
below zero, as the straight line it is there.  Then the picture's own range is spread over 0..1, and so what
comes back stays within it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SLOPE = 1.055 / 2.4  # of sRGB's curve at white


class Curve:
    """For pixels (H, W, C) float32 whose colours lie from ``low`` (at most 0) to ``high`` (at least 1)."""

    def __init__(self, low: float = 0.0, high: float = 1.0):
        ends = _curved(np.array([min(low, 0.0), max(high, 1.0)], np.float64))
        self._low, self._range = float(ends[0]), float(ends[1] - ends[0])

    @classmethod
    def of(cls, pixels: NDArray[Any]) -> Curve:
        """The one whose range is that of ``pixels`` (H, W, C), without their alpha."""
        colour = pixels[..., :-1] if pixels.shape[2] in (2, 4) else pixels
        return cls(float(colour.min()), float(colour.max()))

    def encoded(self, linear: NDArray[Any]) -> NDArray[np.float32]:
        """Scene-linear -> 0..1; alpha stays."""
        shown = (_curved(linear) - self._low) / self._range
        return _with_alpha(shown, linear.clip(0, 1))

    def decoded(self, shown: NDArray[Any]) -> NDArray[np.float32]:
        """0..1 -> scene-linear; alpha stays."""
        x = shown.astype(np.float64) * self._range + self._low
        middle = ((x.clip(0, 1) + 0.055) / 1.055) ** 2.4
        linear = np.where(x <= 0.04045, x / 12.92, np.where(x <= 1, middle, np.exp((x - 1) / _SLOPE)))
        return _with_alpha(linear, shown)


def _curved(linear: NDArray[Any]) -> NDArray[np.float64]:
    v = linear.astype(np.float64)
    middle = 1.055 * v.clip(0, 1) ** (1 / 2.4) - 0.055
    above = 1 + _SLOPE * np.log(v.clip(1))
    return np.where(v <= 0.0031308, 12.92 * v, np.where(v <= 1, middle, above))


def _with_alpha(colour: NDArray[Any], source: NDArray[Any]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = colour.astype(np.float32)
    if result.ndim == 3 and result.shape[2] in (2, 4):
        result[..., -1] = source[..., -1]
    return result
