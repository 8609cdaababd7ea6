"""PSNR and SSIM against hand-computed cases and another implementation's figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from seemore_fast.data.metrics import luma, psnr, ssim
from seemore_fast.errors import ImageError


def pictures() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A colour ramp with noise of +-12, and without."""
    y, x = np.mgrid[0:30, 0:41]
    truth = np.stack([6 * x, 8 * y, 3 * x + 4 * y], axis=2).astype(np.uint8)
    noise = np.random.default_rng(7).integers(-12, 13, truth.shape)
    return (truth + noise).clip(0, 255).astype(np.uint8), truth


def flat(value: int, size: int = 16) -> NDArray[np.uint8]:
    return np.full((size, size, 3), value, np.uint8)


def test_luma_is_bt601_in_its_studio_range() -> None:
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    expected = [16.0, 235.0, 81.481, 144.553, 40.966]
    np.testing.assert_allclose(luma(np.array([colours], np.uint8))[0], expected, rtol=1e-12)


def test_luma_is_not_rounded() -> None:
    assert luma(flat(1, 1))[0, 0] == pytest.approx(16 + 219 / 255, abs=1e-12)


def test_psnr_of_a_constant_error() -> None:
    # Gray differs in luma by 219 / 255 of its own difference.
    assert psnr(flat(110), flat(100), test_y_channel=False) == pytest.approx(20 * math.log10(25.5))
    assert psnr(flat(110), flat(100)) == pytest.approx(20 * math.log10(25.5 * 255 / 219))


def test_psnr_of_equal_pictures_is_infinite() -> None:
    assert psnr(flat(3), flat(3)) == math.inf


def test_ssim_of_constants() -> None:
    # No variance: only the luminance term is left.
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 110 + c1) / (100**2 + 110**2 + c1)
    assert ssim(flat(110), flat(100), test_y_channel=False) == pytest.approx(expected, abs=1e-12)
    assert ssim(flat(100), flat(100)) == pytest.approx(1, abs=1e-12)


def test_agrees_with_scikit_image() -> None:
    # scikit-image 0.26: peak_signal_noise_ratio(data_range=255) and structural_similarity(
    # gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255) of the pictures without 3
    # pixels on every side, as rgb2ycbcr(...)[..., 0] and as float RGB with channel_axis=2.
    image, truth = pictures()
    assert psnr(image, truth, 3) == pytest.approx(36.077715096678595, abs=1e-9)
    assert psnr(image, truth, 3, test_y_channel=False) == pytest.approx(31.091989943559742, abs=1e-9)
    assert ssim(image, truth, 3) == pytest.approx(0.9107926510930544, abs=1e-9)
    assert ssim(image, truth, 3, test_y_channel=False) == pytest.approx(0.8250787165953595, abs=1e-9)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_only_the_border_is_left_out(metric) -> None:
    image, truth = pictures()
    inside = image.copy()
    inside[:4] = inside[-4:] = inside[:, :4] = inside[:, -4:] = 0
    assert metric(inside, truth, 4) == metric(image, truth, 4)
    for row, column in [(4, 20), (-5, 20), (15, 4), (15, -5)]:
        touched = inside.copy()
        touched[row, column] ^= 255
        assert metric(touched, truth, 4) != metric(image, truth, 4)


def test_ssim_needs_one_window() -> None:
    assert ssim(flat(9, 11), flat(9, 11)) == pytest.approx(1)
    with pytest.raises(ImageError, match=r"crop_border .* 11x11 pixels of 12x12, got 1"):
        ssim(flat(9, 12), flat(9, 12), 1)


@pytest.mark.parametrize(
    ("image", "truth", "crop", "message"),
    [
        (flat(1, 8), flat(1, 9), 0, "one size, got 8x8 and 9x9"),
        (flat(1, 8), flat(1, 8), 4, "crop_border"),
        (flat(1, 8), flat(1, 8), -1, "crop_border"),
        (flat(1, 8) / 255, flat(1, 8), 0, "image must be uint8"),
        (flat(1, 8), flat(1, 8)[..., 0], 0, "truth must be uint8"),
    ],
)
def test_refuses(image: NDArray, truth: NDArray, crop: int, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        psnr(image, truth, crop)
