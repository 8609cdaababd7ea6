"""Upscaler: kinds of pictures, alpha, local tiles and seams, with networks whose right answer is known."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from seemore_fast.errors import BackendError, Cancelled, ImageError, SeemoreError
from seemore_fast.model import SeemoRe, load
from seemore_fast.upscale.exact import memory_needed
from seemore_fast.upscale.local import check_overlap, plan_tiles
from seemore_fast.upscale.upscaler import Upscaler


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


def upscale_image(
    model: nn.Module,
    image: np.ndarray,
    tile: int = 0,
    overlap: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Local tiles, for networks like those above have no other."""
    return Upscaler(model, tile=tile, tile_mode="local", overlap=overlap).up(image, progress)


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
    assert calls == [(i, len(model.shapes)) for i in range(len(model.shapes) + 1)]


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


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), "C from 1 to 4"),
        (np.zeros((0, 4, 3), np.uint8), "C from 1 to 4"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((4, 4, 3)), "float32 in .0, 1., not float64"),
        (np.full((4, 4), 255, np.float32), r"must lie in \[0, 1\], this one in \[255, 255\]"),
        (np.full((4, 4), np.nan, np.float32), "must lie in"),
        (np.zeros((4, 4), np.int16), "not int16"),
        ("photo.png", "not str"),
    ],
)
def test_other_pictures_are_refused(image: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        Upscaler(Pointwise()).up(image)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tile": -1},
        {"tile": 31},
        {"tile": "large"},
        {"tile": 1.5},
        {"tile": 64},
        {"tile": 64, "overlap": 17},
        {"overlap": -1},
        {"tile_mode": "both"},
        {"device": "abacus"},
        {"dtype": "fp8"},
        {"dtype": "fp16", "device": "cpu"},
        {"model": "t-x5"},
    ],
)
def test_bad_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SeemoreError, match=r"must|neither|unknown|needs|no exact tiles"):
        Upscaler(**{"model": Pointwise(), **wrong})


def test_the_default_overlap_suits_any_tile() -> None:
    assert [check_overlap(tile, None) for tile in (0, 32, 64, 128, 512)] == [0, 8, 16, 32, 32]


# Kinds of pictures


def test_every_dtype_comes_back_as_it_was() -> None:
    eight = noise(9, 7, 3)
    for image in (eight, eight.astype(np.uint16) * 257, eight.astype(np.float32) / 255):
        larger = upscale_image(Pointwise(), image)
        assert larger.dtype == image.dtype
        np.testing.assert_array_equal(larger, twice(image))
    odd = noise(9, 7, 4).astype(np.uint16) * 255 + 1  # no multiples of 257
    np.testing.assert_array_equal(upscale_image(Pointwise(), odd), twice(odd))


def test_gray_without_a_channel_axis_and_views() -> None:
    image = noise(20, 30, 3)[::2, ::-3]
    np.testing.assert_array_equal(upscale_image(Pointwise(), image), twice(image))
    np.testing.assert_array_equal(upscale_image(Pointwise(), image[..., 0]), twice(image[..., 0]))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK", "I;16"])
def test_pil_images(mode: str) -> None:
    image = Image.new(mode, (7, 5), 1 if mode in ("P", "1") else None)
    image.info = {"icc_profile": b"profile", "other": 1}
    larger = Upscaler(Pointwise()).up(image)
    assert larger.size == (14, 10)
    assert larger.mode == {"P": "RGB", "1": "L", "CMYK": "RGB"}.get(mode, mode)
    assert larger.info == {"icc_profile": b"profile"}
    if mode in ("RGB", "1"):
        np.testing.assert_array_equal(np.asarray(larger), twice(np.asarray(image.convert(larger.mode))))


@pytest.mark.parametrize(("mode", "clear"), [("L", 7), ("RGB", (1, 2, 3))])
def test_a_pil_colour_that_stands_for_transparency_becomes_alpha(mode: str, clear: object) -> None:
    image = Image.new(mode, (7, 5), 90 if mode == "L" else (90, 90, 90))
    image.paste(clear, (0, 0, 3, 5))
    image.info["transparency"] = clear
    larger = Upscaler(Pointwise()).up(image)
    assert larger.mode == mode + "A"
    assert np.asarray(larger)[0, :, -1].tolist() == [0] * 6 + [255] * 8


def test_lists_give_lists() -> None:
    calls: list[tuple[int, int]] = []
    images = [noise(4, 5, 3), noise(6, 4), Image.new("L", (3, 3))]
    larger = Upscaler(Pointwise()).up(images, lambda *call: calls.append(call))
    np.testing.assert_array_equal(larger[1], twice(images[1]))
    assert larger[2].size == (6, 6)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_pieces_come_once_each_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """And small: floating-point copies of a row of tiles would take more than the network does."""
    monkeypatch.setattr("seemore_fast.upscale.upscaler._CHUNK", 1000)
    image = noise(300, 20, 4)
    rows: list[np.ndarray] = []

    def emit(first_row: int, piece: np.ndarray) -> None:
        assert first_row == sum(map(len, rows))
        rows.append(piece)

    Upscaler(Pointwise(), tile=0).stream(image, emit, np.uint16)
    assert max(map(len, rows)) == 1000 // 40
    image[image[..., 3] == 0] = 0
    whole = np.concatenate(rows)
    visible = whole[..., 3] > 0
    np.testing.assert_array_equal(whole[visible], twice(image)[visible].astype(np.uint16) * 257)


# Exact tiles


def tiny() -> SeemoRe:
    return SeemoRe(2, 3, num_experts=3, num_layers=1, embedding_dim=8, lr_space="exp", topk=1).eval()


def test_exact_tiles_give_the_whole_picture() -> None:
    image = noise(70, 101, 4)
    image[20:40, 30:60] = 0
    whole = Upscaler(tiny(), tile=0)
    tiled = Upscaler(whole.model, tile=48)
    calls: list[tuple[int, int]] = []
    larger = tiled.up(image, lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1] > 6, "it was not tiled"
    difference = np.abs(whole.up(image).astype(int) - larger)
    assert difference.max() <= 1
    # Gray, as alpha is, comes from tiles as the mean of three rounded channels.
    assert (difference[..., :3] > 0).mean() < 1e-3
    fine = image.astype(np.float32) / 255
    error = np.linalg.norm(whole.up(fine) - tiled.up(fine)) / np.linalg.norm(whole.up(fine))
    assert error <= 1e-5
    with pytest.raises(Cancelled):
        tiled.up(image, cancelled=lambda: len(calls) > 0)


def test_automatic_tiles_follow_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(150, 160, 3)
    for tile_mode in ("exact", "local"):
        upscaler = Upscaler(tiny(), tile_mode=tile_mode)
        totals: list[int] = []
        for free in (1 << 40, 3 << 20):
            monkeypatch.setattr("seemore_fast.upscale.upscaler.free_memory", lambda device, free=free: free)
            upscaler.up(image, lambda done, total, totals=totals: totals.append(total))
        assert totals[0] == 1
        assert totals[-1] > 1


@pytest.mark.parametrize("tile_mode", ["exact", "local"])
def test_the_whole_picture_is_in_memory_as_floating_point(
    tile_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscaler, image = Upscaler(tiny(), tile_mode=tile_mode), noise(150, 160, 3)
    for itemsize, whole in ((4, True), (1, False)):
        larger = 4 * image.nbytes
        needed = memory_needed(upscaler.model, 1, 150, 160, 0, itemsize=itemsize)
        free = 1.01 * (needed + larger) / 0.8
        monkeypatch.setattr("seemore_fast.upscale.upscaler.free_memory", lambda device, free=free: int(free))
        totals: list[int] = []
        upscaler.up(image, lambda done, total, totals=totals: totals.append(total))
        assert (totals[-1] == 1) is whole


def test_a_share_of_the_memory_makes_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seemore_fast.upscale.upscaler.free_memory", lambda device: 48 << 20)
    totals: dict[float, int] = {}
    for share in (1.0, 1 / 16):
        upscaler = Upscaler(tiny(), memory_share=share)
        upscaler.up(noise(150, 160, 3), lambda _, total, share=share: totals.update({share: total}))
    assert totals[1.0] == 1
    assert totals[1 / 16] > 1
    for share in (0, 1.5, float("nan")):
        with pytest.raises(SeemoreError, match="memory_share must be above 0 and at most 1"):
            Upscaler(tiny(), memory_share=share)


def test_weights_that_give_nonsense_are_refused_when_loaded(tmp_path: Path) -> None:
    state = load("t-x4").state_dict()
    state["conv_2.bias"] = torch.full_like(state["conv_2.bias"], 3e38)
    state["upsampler.0.weight"] = torch.ones_like(state["upsampler.0.weight"])
    torch.save(state, tmp_path / "huge.pth")
    with pytest.raises(BackendError, match=r"huge.pth: the network's output is not finite"):
        Upscaler(tmp_path / "huge.pth", device="cpu")


# Threads, cancelling, memory


def test_threads_share_an_upscaler_and_get_what_one_thread_gets() -> None:
    upscaler = Upscaler("t-x4", device="cpu", dtype="bf16")
    images = [noise(20 + i, 40 - i, 1 + i % 4, seed=i) for i in range(8)]
    expected = [upscaler.up(image) for image in images]
    wrong: list[str] = []

    def work(index: int) -> None:
        for round_ in range(4):
            pick = (index + round_) % 8
            if not np.array_equal(upscaler.up(images[pick]), expected[pick]):
                wrong.append(f"thread {index}, round {round_}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_cancelling_stops_between_tiles() -> None:
    model = Pointwise()
    upscaler = Upscaler(model, tile=32, tile_mode="local")
    with pytest.raises(Cancelled):
        upscaler.up(noise(100, 100, 3), cancelled=lambda: len(model.shapes) == 3)
    assert len(model.shapes) == 3
    with pytest.raises(Cancelled):
        upscaler.up([noise(4, 4, 3)], cancelled=lambda: True)
    assert len(model.shapes) == 3


class Greedy(Pointwise):
    """Memory for pictures of 50 pixels a side, as each kind of allocator says it."""

    error: Exception = MemoryError()

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) > 50:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB, max allowed: 9 GB)."),
    ],
)
@pytest.mark.parametrize("tile", ["auto", 0, 90])
def test_tiles_shrink_until_they_fit(
    error: Exception, tile: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    model, image = Greedy(), noise(70, 150, 3)
    model.error = error
    with caplog.at_level(logging.WARNING, "seemore_fast"):
        larger = Upscaler(model, tile=tile, tile_mode="local", overlap=9).up(image)
    np.testing.assert_array_equal(larger, twice(image))
    assert "out of memory at 150x70; going on with tiles of" in caplog.text


def test_what_does_not_fit_at_all_is_one_error() -> None:
    class Starved(Greedy):
        def forward(self, x: Tensor) -> Tensor:
            raise self.error

    with pytest.raises(MemoryError, match="not even tiles of 37 pixels"):
        Upscaler(Starved(), tile_mode="local").up(noise(70, 150, 3))
    with pytest.raises(MemoryError, match="150x70 pixels do not fit"):
        Upscaler(Starved()).up(noise(70, 150, 3))  # not a network of ours: it has no exact tiles
    starved = Starved()
    starved.error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        Upscaler(starved).up(noise(9, 9, 3))


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
