"""PSNR and SSIM as the super-resolution literature computes them: the protocol of MATLAB and BasicSR.

Both compare 8-bit pictures, cut ``crop_border`` pixels from every side first, and convert to luma second
(BT.601, 16..235, kept in floating point).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from seemore_fast.errors import ImageError

_LUMA = np.array([65.481, 128.553, 24.966]) / 255
SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_C1 = (0.01 * 255) ** 2
_SSIM_C2 = (0.03 * 255) ** 2


def luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Y of BT.601 in its studio range: (H, W, 3) RGB in 0..255 -> (H, W) in 16..235, not rounded."""
    return image @ _LUMA + 16.0


def psnr(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], crop_border: int = 0, test_y_channel: bool = True
) -> float:
    """Peak signal-to-noise ratio in dB, peak 255, of (H, W, 3) uint8 RGB pictures; equal ones give infinity.

    The error is that of luma, or with ``test_y_channel=False`` the mean over the three colours.  Luma's peak
    counts as 255 although it ends at 235: so every published table does.

    Raises ImageError unless both are uint8 (H, W, 3) of one size with pixels left inside the border.
    """
    a, b = _planes(image, truth, crop_border, test_y_channel, least=1)
    error = float(np.mean((a - b) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], crop_border: int = 0, test_y_channel: bool = True
) -> float:
    """Structural similarity (at most 1) of (H, W, 3) uint8 RGB pictures.

    Gaussian window of 11x11 and sigma 1.5, only where it lies inside the picture; K1 = 0.01, K2 = 0.03,
    L = 255; the mean over luma, or with ``test_y_channel=False`` over the three colours.
    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP
    2004, without downsampling.

    Raises ImageError unless both are uint8 (H, W, 3) of one size with 11x11 pixels left inside the border.
    """
    a, b = _planes(image, truth, crop_border, test_y_channel, least=SSIM_WINDOW)
    mean_a, mean_b = _blur(a), _blur(b)
    aa, bb, ab = mean_a**2, mean_b**2, mean_a * mean_b
    variances = _blur(a * a) - aa + _blur(b * b) - bb
    covariance = _blur(a * b) - ab
    luminance = (2 * ab + _SSIM_C1) / (aa + bb + _SSIM_C1)
    return float(np.mean(luminance * (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2)))


def inner(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], crop: int, least: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both pictures without their border, which leaves at least ``least`` pixels a side."""
    for name, array in (("image", image), ("truth", truth)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ImageError(
                f"{name} must be uint8 of shape (H, W, 3), not {array.dtype} of shape {array.shape}"
            )
    if image.shape != truth.shape:
        raise ImageError(f"image and truth must be of one size, got {_size(image)} and {_size(truth)}")
    if crop < 0 or min(image.shape[:2]) - 2 * crop < least:
        room = f"leave at least {least}x{least} pixels of {_size(image)}"
        raise ImageError(f"crop_border must be 0 or more and {room}, got {crop}")
    part = np.s_[crop : image.shape[0] - crop, crop : image.shape[1] - crop]
    return image[part], truth[part]


def _planes(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], crop: int, test_y_channel: bool, least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both pictures as (C, h, w) float64 without their border, C = 1 for luma."""
    parts = inner(image, truth, crop, least)
    if test_y_channel:
        return luma(parts[0])[None], luma(parts[1])[None]
    a, b = (part.transpose(2, 0, 1).astype(np.float64) for part in parts)
    return a, b


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _blur(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """SSIM's window, separably: (C, h, w) -> (C, h - 10, w - 10)."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    taps = np.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    taps /= taps.sum()
    height, width = planes.shape[1] - SSIM_WINDOW + 1, planes.shape[2] - SSIM_WINDOW + 1
    rows = sum(tap * planes[:, i : i + height] for i, tap in enumerate(taps))
    return sum(tap * rows[:, :, i : i + width] for i, tap in enumerate(taps))
