"""Beyond the edge: flat pictures stay flat, textures go on without a seam, with tiles and without."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from seemore_fast.model import load
from seemore_fast.upscale.border import Border
from seemore_fast.upscale.upscaler import Upscaler

COLOURS = list(product((0, 255), repeat=3))
"""The corners of the colour cube."""


@cache
def upscaler(border: str, tile: int = 0, mode: str = "exact") -> Upscaler:
    return Upscaler(load("t-x4"), tile=tile, tile_mode=mode, border=border)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("border", ["reflect", "wrap"])
def test_flat_pictures_stay_flat(colour: tuple[int, ...], border: str) -> None:
    image = np.full((24, 24, 3), colour, np.uint8)
    assert np.abs(upscaler(border).up(image).astype(int) - colour).max() <= 1
    assert np.abs(upscaler("zero").up(image).astype(int) - colour).max() > 1, "what the border is for"


@pytest.mark.parametrize("colour", COLOURS)
def test_no_frame_around_flat_colours(colour: tuple[int, ...]) -> None:
    """The network itself may err on a colour, but then everywhere alike."""
    image = np.full((32, 32, 3), colour, np.uint8)

    def frame(border: str) -> int:
        larger = upscaler(border).up(image).astype(int)
        middle = larger[64:68, 64:68]
        return int(np.abs(larger - np.tile(middle, (32, 32, 1))).max())

    assert frame("reflect") <= 1 < frame("zero")


def texture() -> np.ndarray:
    yy, xx = np.mgrid[:40, :48] * 2 * np.pi
    waves = [np.sin(yy / 40 * k + xx / 48 * (3 - k)) for k in (1, 2, 3)]
    return np.stack([128 + 100 * wave for wave in waves], axis=2).round().astype(np.uint8)


def test_wrapped_textures_have_no_seam() -> None:
    """Rolled and enlarged is enlarged and rolled, by whole cells of the coarse map."""
    image = texture()
    larger = upscaler("wrap").up(image)
    assert larger.shape == (160, 192, 3)
    rolled = upscaler("wrap").up(np.roll(image, 16, axis=1))
    assert np.abs(rolled.astype(int) - np.roll(larger, 64, axis=1)).mean() < 0.5
    plain = upscaler("zero").up(np.roll(image, 16, axis=1)).astype(int)
    seam = np.abs(plain - np.roll(upscaler("zero").up(image), 64, axis=1))[:, 60:68].mean()
    assert np.abs(rolled.astype(int) - np.roll(larger, 64, axis=1))[:, 60:68].mean() < seam / 2


@pytest.mark.parametrize("border", ["reflect", "wrap"])
def test_tiles_change_nothing(border: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    whole = upscaler(border).up(image).astype(int)
    assert np.abs(upscaler(border, 32).up(image) - whole).max() <= 1
    rows: list[np.ndarray] = []
    upscaler(border, 32).stream(image, lambda first, more: rows.append(more.copy()))
    assert np.abs(np.concatenate(rows) - whole).max() <= 1
    local = upscaler(border, 64, "local").up(image)
    assert local.shape == whole.shape


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 40, 1), (17, 5, 4)])
@pytest.mark.parametrize("border", ["zero", "reflect", "wrap"])
def test_any_size_and_layout(shape: tuple[int, ...], border: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert upscaler(border).up(image).shape == (4 * shape[0], 4 * shape[1], shape[2])


def test_which_pixels_come_beyond_the_edge() -> None:
    x = torch.arange(20.0).view(1, 1, 1, 20)
    line = Border("reflect", 1).extended(x)[0, 0, 0]
    assert line[13:20].tolist() == [2, 1, 0, 0, 1, 2, 3]
    assert line[-18:-13].tolist() == [18, 19, 19, 18, 17]
    line = Border("wrap", 1).extended(x)[0, 0, 0]
    assert line[13:19].tolist() == [17, 18, 19, 0, 1, 2]
    first, rows = Border("wrap", 2).cropped(20, torch.zeros(1, 1, 30, 80), 10)
    assert (first, rows.shape) == (0, (1, 1, 10, 16))


def test_the_border_is_part_of_the_identity() -> None:
    assert upscaler("zero").identity() != upscaler("wrap").identity()
    from seemore_fast.errors import SeemoreError

    with pytest.raises(SeemoreError, match="border must be one of zero, reflect, wrap"):
        Upscaler(load("t-x4"), border="mirror")
