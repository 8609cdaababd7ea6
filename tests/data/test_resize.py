"""MATLAB's imresize against hand-computed weights, Pillow's independent bicubic and a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from seemore_fast.data.resize import enlarge, imresize
from seemore_fast.errors import ImageError

PAD = {"mirror": "symmetric", "repeat": "edge"}


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def keys(x: float) -> float:
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def by_loops(column: NDArray[np.uint8], scale: float, edges: str) -> list[int]:
    """One column of uint8, as the definition says: pad, weigh, normalise, round half up, clip."""
    pad = 4 * math.ceil(max(1, 1 / scale))
    padded = np.pad(column.astype(float), pad, mode=PAD[edges])
    out = []
    for i in range(math.ceil(len(column) * scale)):
        centre = (i + 0.5) / scale - 0.5
        weights = [keys(min(scale, 1) * (centre - (j - pad))) for j in range(len(padded))]
        value = math.fsum(w * v for w, v in zip(weights, padded, strict=True)) / math.fsum(weights)
        out.append(min(255, max(0, math.floor(value + 0.5))))
    return out


def test_weights_of_doubling() -> None:
    impulse = np.zeros((9, 1))
    impulse[4] = 1
    # Keys' kernel at distances .25, .75, 1.25 and 1.75, in 128ths.
    half = [-3, -9, 29, 111]
    got = imresize(np.repeat(impulse, 9, axis=1), 2)[:, 8] * 128
    np.testing.assert_allclose(got, [0] * 5 + half + half[::-1] + [0] * 5, atol=1e-12)


def test_weights_of_halving() -> None:
    impulse = np.zeros((16, 4))
    impulse[7] = 1
    # The kernel twice as wide: input 7 is 2.5, 0.5, 1.5 and 3.5 pixels from outputs 2 to 5.
    got = imresize(impulse, 1 / 2)[:, 0] * 256
    np.testing.assert_allclose(got, [0, 0, -9, 111, 29, -3, 0, 0], atol=1e-12)


@pytest.mark.parametrize("edges", PAD)
@pytest.mark.parametrize("scale", [2, 3, 4, 1 / 2, 1 / 3, 1 / 4])
def test_agrees_with_pillow(scale: float, edges: str) -> None:
    # Pillow has the same kernel and antialiasing but leaves out what lies outside: it gets a padded picture.
    picture = noise(24, 36).astype(np.float64)
    pad = 24
    padded = Pillow.fromarray(np.pad(picture, pad, mode=PAD[edges]).astype(np.float32))
    height, width = (round(side * scale) for side in padded.size[::-1])
    inner = round(pad * scale)
    expected = np.asarray(padded.resize((width, height), Pillow.Resampling.BICUBIC))
    got = imresize(picture, scale, edges)
    np.testing.assert_allclose(got, expected[inner:-inner, inner:-inner], atol=1e-3)


@pytest.mark.parametrize("edges", PAD)
@pytest.mark.parametrize("scale", [2, 1 / 2, 1 / 3, 1 / 4, 0.7])
def test_uint8_rounds_after_the_rows(scale: float, edges: str) -> None:
    picture = noise(13, 10)
    rows = np.array([by_loops(column, scale, edges) for column in picture.T], np.uint8).T
    expected = np.array([by_loops(row, scale, edges) for row in rows], np.uint8)
    got = imresize(picture, scale, edges)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_float_is_neither_rounded_nor_clipped() -> None:
    edge = np.zeros((8, 8))
    edge[:, 4:] = 1
    assert imresize(edge, 4).min() < -0.01
    assert imresize(edge, 4).max() > 1.01


@pytest.mark.parametrize("scale", [2, 3, 4, 1 / 2, 1 / 3])
def test_channels_and_sides_are_independent(scale: float) -> None:
    picture = noise(12, 9, 3).astype(np.float64)
    whole = imresize(picture, scale)
    assert whole.shape == (math.ceil(12 * scale), math.ceil(9 * scale), 3)
    for channel in range(3):
        np.testing.assert_array_equal(whole[..., channel], imresize(picture[..., channel], scale))
    np.testing.assert_allclose(whole, imresize(picture.swapaxes(0, 1), scale).swapaxes(0, 1), atol=1e-12)


def test_a_constant_stays_at_any_size() -> None:
    for size in [(1, 1), (1, 7), (2, 5), (3, 3)]:
        for scale in [4, 1 / 4, 0.37]:
            assert (imresize(np.full(size, 200, np.uint8), scale) == 200).all()


def test_enlarge_rounds_once() -> None:
    picture = noise(9, 8, 3)
    expected = np.floor(imresize(picture.astype(np.float64), 3).clip(0, 255) + 0.5)
    np.testing.assert_array_equal(enlarge(picture, 3), expected)
    assert (enlarge(picture, 3) != imresize(picture, 3)).any()


@pytest.mark.parametrize("image", [noise(4), noise(4, 0), noise(4, 4).astype(np.float32), noise(4, 4) > 9])
def test_refuses_other_arrays(image: NDArray) -> None:
    with pytest.raises(ImageError, match="image must be uint8 or float64"):
        imresize(image, 2)


def test_refuses_other_arguments() -> None:
    for scale in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="scale must be positive"):
            imresize(noise(4, 4), scale)
    with pytest.raises(ValueError, match="edges must be"):
        imresize(noise(4, 4), 2, "reflect")
