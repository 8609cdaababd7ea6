"""upscale_image: channel layouts, alpha, tiles and seams, with networks whose right answer is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seemore_fast.errors import BackendError, ImageError, SeemoreError
from seemore_fast.upscale import check_tiles, plan_tiles, upscale_image


class Pointwise(nn.Module):
    """Repeats pixels x2 and adds a constant for each call: the answer of any tile is known."""

    def __init__(self, offsets: tuple[float, ...] = (), in_chans: int = 3):
        super().__init__()
        self.scale, self.config = 2, {"in_chans": in_chans}
        self.anchor = nn.Parameter(torch.zeros(()))
        self.offsets = offsets
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        offset = self.offsets[len(self.shapes)] if self.offsets else 0.0
        self.shapes.append(tuple(x.shape))
        return F.interpolate(x, scale_factor=2.0, mode="nearest") + offset


class Blur(Pointwise):
    """As a network at an edge: zero padded 5x5 mean, then x2."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.avg_pool2d(x, 5, stride=1, padding=2))


def twice(image: np.ndarray) -> np.ndarray:
    return image.repeat(2, axis=0).repeat(2, axis=1)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("tile", [0, 32])
def test_every_layout_keeps_its_channels(channels: int, tile: int) -> None:
    image = noise(70, 45, channels)
    image[..., -1] |= 1  # no invisible pixels here: their colour may change
    model = Pointwise()
    out = upscale_image(model, image, tile=tile, overlap=8)
    np.testing.assert_array_equal(out, twice(image))
    assert {shape[:2] for shape in model.shapes} == {(2 if channels in (2, 4) else 1, 3)}


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 200, 3), (33, 1, 1), (64, 65, 3), (131, 97, 3)])
@pytest.mark.parametrize("overlap", [0, 1, 8])
def test_tiles_cover_every_pixel_once(shape: tuple[int, int, int], overlap: int) -> None:
    image = noise(*shape)
    np.testing.assert_array_equal(upscale_image(Pointwise(), image, tile=32, overlap=overlap), twice(image))


@pytest.mark.parametrize("overlap", [0, 1, 8, 32, 64])
def test_tile_plan(overlap: int) -> None:
    tile = max(32, 4 * overlap)
    for length in range(1, 6 * tile):
        starts, size = plan_tiles(length, tile, overlap)
        assert starts[0] == 0
        assert starts[-1] + size == length
        assert size <= tile
        for before, after in pairwise(starts):
            assert before + size - after >= overlap
        for first, third in zip(starts, starts[2:], strict=False):
            assert first + size <= third, "three tiles share a pixel"


def test_tiles_that_disagree_are_faded_into_each_other() -> None:
    """A tile may choose other experts than its neighbour: that must be a ramp, never a step."""
    image = np.full((40, 100, 3), 100, np.uint8)
    starts, _ = plan_tiles(100, 64, 16)
    offsets = (0.0, 0.2, -0.1)[: len(starts)]
    row = upscale_image(Pointwise(offsets), image, tile=64, overlap=16)[20, :, 0].astype(int)
    assert {row[0], row[-1]} == {100 + round(255 * offsets[0]), 100 + round(255 * offsets[-1])}
    assert np.abs(np.diff(row)).max() <= np.ceil(0.2 * 255 / 16)


def test_seams_of_padding_vanish_inside_the_overlap() -> None:
    """The dark frame that zero padding gives each tile has no weight where tiles meet."""
    image = np.full((100, 100, 1), 200, np.uint8)
    whole = upscale_image(Blur(), image).astype(int)
    tiled = upscale_image(Blur(), image, tile=64, overlap=16).astype(int)
    assert np.abs(whole - tiled)[8:-8, 8:-8].max() == 0
    hard = upscale_image(Blur(), image, tile=64, overlap=0).astype(int)
    assert np.abs(whole - hard)[8:-8, 8:-8].max() >= 80, "the test would not see a seam"


def test_tiles_bound_what_the_network_sees() -> None:
    model, calls = Pointwise(), []
    upscale_image(model, noise(90, 150, 3), tile=48, overlap=8, progress=lambda *call: calls.append(call))
    assert max(max(shape[2:]) for shape in model.shapes) <= 48
    assert calls == [(i + 1, len(model.shapes)) for i in range(len(model.shapes))]


def test_opaque_areas_stay_opaque_and_empty_ones_empty() -> None:
    image = np.zeros((30, 40, 4), np.uint8)
    image[:, 20:] = 255
    out = upscale_image(Pointwise((0.02,)), image)
    assert (out[:, : 2 * 19, 3] == 0).all()
    assert (out[:, 2 * 21 :, 3] == 255).all()
    assert (out[:, 2 * 19 : 2 * 20, 3] == 5).all(), "at the edge the network decides"


@pytest.mark.parametrize("alpha", [0, 77, 255])
def test_constant_alpha_needs_no_network(alpha: int) -> None:
    image = noise(9, 8, 4)
    image[..., 3] = alpha
    model = Pointwise()
    np.testing.assert_array_equal(upscale_image(model, image), twice(image))
    assert model.shapes == [(1, 3, 9, 8)]


@pytest.mark.parametrize("channels", [2, 4])
def test_invisible_colour_leaves_no_fringe(channels: int) -> None:
    """A light disc on invisible black: a network that blurs must not darken its edge."""
    yy, xx = np.mgrid[:61, :53]
    disc = (yy - 30) ** 2 + (xx - 26) ** 2 < 18**2
    image = np.zeros((61, 53, channels), np.uint8)
    image[disc] = 220
    image[disc, -1] = 255
    out = upscale_image(Blur(), image)
    visible = out[..., -1] > 0
    visible[:4] = visible[-4:] = visible[:, :4] = visible[:, -4:] = False
    assert visible.sum() > 4 * disc.sum()
    assert (out[visible][:, :-1] >= 219).all()


def test_gray_models_take_gray_only() -> None:
    image = noise(20, 20, 1)
    np.testing.assert_array_equal(upscale_image(Pointwise(in_chans=1), image), twice(image))
    with pytest.raises(ImageError, match="1-channel"):
        upscale_image(Pointwise(in_chans=1), noise(20, 20, 3))


def test_output_is_clamped_and_rounded() -> None:
    image = np.array([[[0], [127], [255]]], np.uint8)
    up = upscale_image(Pointwise((0.7 / 255,)), image)
    assert up[0, ::2, 0].tolist() == [1, 128, 255]
    down = upscale_image(Pointwise((-2.4 / 255,)), image)
    assert down[0, ::2, 0].tolist() == [0, 125, 253]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_output_that_is_not_finite_is_an_error_not_black(value: float) -> None:
    with pytest.raises(BackendError, match="not finite"):
        upscale_image(Pointwise((value,)), noise(8, 8, 3))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 5), (0, 4, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="uint8 of shape"):
        upscale_image(Pointwise(), np.zeros(shape, np.uint8))


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ImageError, match="not float64"):
        upscale_image(Pointwise(), np.zeros((4, 4, 3)))


@pytest.mark.parametrize(("tile", "overlap"), [(-1, 0), (31, 0), (64, 17), (64, -1), (0, -1)])
def test_bad_tiles_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(SeemoreError, match=r"(tile|overlap) must"):
        check_tiles(tile, overlap)


def test_the_default_overlap_suits_any_tile() -> None:
    assert [check_tiles(tile, None) for tile in (0, 32, 64, 128, 512)] == [0, 8, 16, 32, 32]


def test_a_buffer_that_the_model_keeps_is_left_alone() -> None:
    class Keeps(Pointwise):
        kept: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.kept is None:
                self.kept = super().forward(x)
            return self.kept

    model, image = Keeps(), noise(9, 7, 3)
    for _ in range(2):
        np.testing.assert_array_equal(upscale_image(model, image), twice(image))
