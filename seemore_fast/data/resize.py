"""MATLAB's ``imresize`` with its default bicubic kernel, which made the low-resolution benchmark files.

It differs from most libraries' bicubic: the kernel has a = -0.5 and is widened when shrinking (antialiasing).
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from seemore_fast.errors import ImageError

Pixels = TypeVar("Pixels", np.uint8, np.float64)


def imresize(
    image: NDArray[Pixels], scale: float, edges: Literal["mirror", "repeat"] = "mirror"
) -> NDArray[Pixels]:
    """Resizes (H, W) or (H, W, C) to ceil(H * scale), ceil(W * scale) rows and columns.

    float64 stays float64, of any range, and is not clipped.  uint8 stays uint8: as in MATLAB, rows are
    resized first, and rounded and clipped to 0..255 before the columns are.

    ``edges`` is what lies outside the picture: its mirror image (MATLAB today) or its outermost pixels again
    (an older MATLAB).  The published LR files of Set5 come out bit by bit from uint8 with ``repeat``.

    Raises ImageError for another kind of array, ValueError for a ``scale`` that is not positive and finite or
    other ``edges``.
    Source: Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981.
    """
    if image.dtype not in (np.uint8, np.float64) or image.ndim not in (2, 3) or 0 in image.shape:
        found = f"{image.dtype} of shape {image.shape}"
        raise ImageError(f"image must be uint8 or float64 of shape (H, W) or (H, W, C), not {found}")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale must be positive and finite, got {scale!r}")
    if edges not in ("mirror", "repeat"):
        raise ValueError(f"edges must be 'mirror' or 'repeat', got {edges!r}")
    half = _resize_rows(image, scale, edges)
    return np.ascontiguousarray(_resize_rows(half.swapaxes(0, 1), scale, edges).swapaxes(0, 1))


def enlarge(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """The bicubic baseline of the tables: computed in floating point, rounded to uint8 once at the end."""
    return _round(imresize(image.astype(np.float64), scale))


def _resize_rows(image: NDArray[Pixels], scale: float, edges: str) -> NDArray[Pixels]:
    """Resizes along the first axis."""
    index, weight = _contributions(image.shape[0], scale, edges)
    out = np.zeros((len(index), *image.shape[1:]))
    for tap in range(index.shape[1]):
        out += image[index[:, tap]] * weight[:, tap].reshape(-1, *[1] * (image.ndim - 1))
    return _round(out) if image.dtype == np.uint8 else out  # type: ignore[return-value]


def _round(x: NDArray[np.float64]) -> NDArray[np.uint8]:
    """To the nearest of 0..255, halves up as MATLAB has them."""
    return np.floor(x.clip(0, 255) + 0.5).astype(np.uint8)


def _contributions(length: int, scale: float, edges: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """For each output position, the input positions it is made of and their weights: both (out, taps)."""
    shrink = min(scale, 1.0)
    reach = 2 / shrink
    centre = (np.arange(math.ceil(length * scale)) + 0.5) / scale - 0.5
    first = np.floor(centre - reach).astype(np.intp)
    index = first[:, None] + np.arange(math.ceil(2 * reach) + 2)
    weight = _cubic(shrink * (centre[:, None] - index))
    weight /= weight.sum(axis=1, keepdims=True)
    if edges == "repeat":
        return index.clip(0, length - 1), weight
    index %= 2 * length  # ... 1 0 0 1 2 ..., and so on with this period
    return np.minimum(index, 2 * length - 1 - index), weight


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
