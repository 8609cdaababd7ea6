"""Exact tiling: the same result as in one call, whatever the tiles, the routing and the stream's place."""

from __future__ import annotations

import itertools
import os
import re
from collections import namedtuple

import pytest
import torch
from torch import Tensor

from seemore_fast import SeemoRe
from seemore_fast.backends import native
from seemore_fast.errors import Cancelled, SeemoreError
from seemore_fast.model import load
from seemore_fast.network import reference, variants
from seemore_fast.upscale import exact
from seemore_fast.upscale.exact import duration
from seemore_fast.upscale.exact.grid import Axis, crop_size, grid_for
from seemore_fast.upscale.exact.route import route
from seemore_fast.upscale.exact.store import Store
from tests.support import golden
from tests.support.isas import HAS_BF16, ISAS
from tests.support.tiles import pictures, tiled

SMALL = {"scale": 2, "num_experts": 3, "num_layers": 2, "embedding_dim": 12, "lr_space": "exp", "topk": 1}


def run(model: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def oracle(**config) -> reference.SeemoRe:
    return golden.fill(reference.SeemoRe(**{**SMALL, **config}), seed=11).double().eval()


# ---- The scheme, in float64, where rounding hides nothing ------------------------------------------------


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "config",
    [
        {"topk": 2, "img_range": 2.0},
        {"recursive": 1, "scale": 3, "num_layers": 3, "use_shuffle": True},
        {"recursive": 1, "in_chans": 1, "num_experts": 1},
        {"global_kernel_size": 41, "num_layers": 1},
        {"recursive": 3, "num_layers": 1},
        {"recursive": 0, "num_layers": 1},
        {"num_layers": 0},
    ],
    ids=str,
)
def test_tiles_do_not_change_the_result(config):
    model = oracle(**config)
    size, tile = ((200, 129), 64) if model.min_size > 16 else ((99, 65), 48)
    assert grid_for(model, *size, tile).count > 1
    x = pictures(config.get("in_chans", 3), *size)
    assert golden.relative_l2(tiled(model, x, tile), run(model, x)) <= 1e-13


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("tile", [32, 100])
@pytest.mark.parametrize("size", [(16, 350), (349, 17), (101, 110)], ids=str)
def test_sizes(size, tile):
    model = oracle(num_layers=2)
    x = pictures(3, *size)[1:]
    assert golden.relative_l2(tiled(model, x, tile), run(model, x)) <= 1e-13


def test_the_pictures_would_show_a_wrong_routing():
    model, x = oracle(), pictures(3, 99, 65)
    for group in model.body:
        gate, chosen = group.local_block.block.moe_layer.gate, []
        hook = gate.register_forward_hook(lambda _, __, p, to=chosen: to.append(p.argmax(1).tolist()))
        run(model, x)
        run(model, x[1:, :, :32, 33:])
        hook.remove()
        (first, second), (part,) = chosen
        assert first != second
        assert part != second


def test_the_stream_in_a_file_is_the_same_bits(tmp_path, caplog):
    model = oracle().float()
    x = pictures(3, 99, 65).float()
    in_memory = tiled(model, x, 32)
    assert not caplog.records
    assert torch.equal(tiled(model, x, 32, memory=0, folder=tmp_path), in_memory)
    (said,) = caplog.messages
    assert said.startswith("65x99 pixels are computed in ")
    assert said.endswith(f"with a temporary file of 0.00 GB in {tmp_path}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(5, 40), (70, 9), (1, 1)], ids=str)
def test_images_below_the_least_size(size):
    """As SeemoRe does it: extended by their edge, and cropped."""
    model = oracle()
    x = pictures(3, *size)
    extended = torch.nn.functional.pad(
        x, (0, max(16 - size[1], 0), 0, max(16 - size[0], 0)), mode="replicate"
    )
    want = run(model, extended)[..., : 2 * size[0], : 2 * size[1]]
    assert golden.relative_l2(tiled(model, x, 32), want) <= 1e-13


# ---- The native engine -----------------------------------------------------------------------------------

needs_native = pytest.mark.skipif(not ISAS, reason=f"no native library: {native.error}")


def fast(**config) -> SeemoRe:
    return golden.fill(SeemoRe(**{**SMALL, **config}, backend="cpu"), seed=11).eval()


@needs_native
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "config",
    [
        {"topk": 2, "img_range": 2.0, "use_shuffle": True},
        {"recursive": 1, "scale": 3, "num_layers": 3, "embedding_dim": 13},
        {"global_kernel_size": 41, "num_layers": 1},
        {"recursive": 3, "num_layers": 1},
        {"num_layers": 0, "in_chans": 1},
    ],
    ids=str,
)
def test_native_tiles_against_the_reference(isa, config):
    ours, plain = fast(**config), oracle(**config)
    size, tile = ((200, 129), 64) if plain.min_size > 16 else ((99, 131), 48)
    x = pictures(config.get("in_chans", 3), *size)
    assert golden.relative_l2(tiled(ours, x.float(), tile), run(plain, x)) <= 1e-5


@needs_native
@pytest.mark.parametrize("name", ["t-x2", "b-x4", "l-x3"])
def test_variants(name):
    """Natively, with three of their layers, in tiles of the sizes that the tool is judged by."""
    config = {**variants.config(name), "num_layers": 3}
    model = golden.fill(SeemoRe(**config, backend="cpu"), seed=3).eval()
    x = pictures(3, 57, 350).float()[1:]
    whole = run(model, x)
    for tile in (48, 100, 333):
        assert golden.relative_l2(tiled(model, x, tile), whole) <= 1e-5, f"tile {tile}"


@needs_native
def test_native_sizes():
    ours = fast(embedding_dim=20)
    for size in [(16, 350), (349, 17), (101, 110), (64, 97), (33, 1000)]:
        x = pictures(3, *size).float()
        whole = run(ours, x)
        for tile in (32, 48, 100, 333):
            assert golden.relative_l2(tiled(ours, x, tile), whole) <= 2e-6, f"{size}, tile {tile}"


@needs_native
def test_native_tiles_are_the_same_bits_for_any_number_of_threads(isa, tmp_path):
    ours = fast(embedding_dim=20, topk=2)
    x = pictures(3, 99, 131).float()
    torch.set_num_threads(1)
    want = tiled(ours, x, 48)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        assert torch.equal(tiled(ours, x, 48), want), f"{threads} threads"
    assert torch.equal(tiled(ours, x, 48, memory=0, folder=tmp_path), want)


@needs_native
def test_native_bytes():
    ours = fast()
    pixels = torch.randint(0, 256, (2, 3, 70, 65), dtype=torch.uint8)
    got, whole = tiled(ours, pixels, 32), run(ours, pixels)
    assert got.dtype == torch.uint8
    assert (got.int() - whole.int()).abs().max() <= 1
    assert (got != whole).float().mean() < 1e-3


@needs_native
@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no BF16")
def test_native_bfloat16():
    ours = fast(embedding_dim=20)
    x = pictures(3, 99, 131).float()
    with torch.autocast("cpu", torch.bfloat16):
        got, whole = tiled(ours, x, 48), run(ours, x)
    exact = run(oracle(embedding_dim=20), x.double())
    assert golden.relative_l2(whole, exact) > 1e-4, "bf16 is on"
    assert golden.relative_l2(got, exact) <= 1.1 * golden.relative_l2(whole, exact)


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: 2}, "rows lie badly"),
        ({7: 200}, "rows lie badly"),
        ({8: 4}, "columns lie badly"),
        ({1: 8}, "height and width must lie"),
    ],
    ids=str,
)
def test_the_engine_refuses_a_tile_that_lies_badly(change, message):
    area = [99, 131, 0, 0, 60, 60, 0, 48, 0, 48]
    with torch.no_grad():
        _, packed = fast().packed_for(torch.rand(1, 3, 1, 1))
    assert packed.tile_workspace(area, 1) > 0
    for at, value in change.items():
        area[at] = value
    with pytest.raises(ValueError, match=message):
        packed.tile_workspace(area, 1)


# ---- Memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=needs_native), "reference"])
def test_the_choice_fits(backend):
    model = SeemoRe(**{**SMALL, "embedding_dim": 36}, backend=backend)
    size = 3000, 4000
    whole = exact.memory_needed(model, 1, *size, 0, itemsize=4)
    assert exact.choose_tile(model, 1, *size, whole) == 0
    previous = 4096
    for part in (1.01, 1.2, 1.5, 2, 4, 10, 30):
        available = int(whole / part)
        tile = exact.choose_tile(model, 1, *size, available)
        needed = [exact.memory_needed(model, 1, *size, tile, stream_in_file=f) for f in (True, False)]
        assert needed[0] <= available
        assert 32 <= tile <= previous
        assert tile >= 256 or needed[1] > available, "larger tiles before a stream in memory"
        previous = 4096 if needed[1] <= available else tile
    with pytest.raises(SeemoreError, match="4000 x 3000 pixels need at least"):
        exact.choose_tile(model, 1, *size, 10**6)


@pytest.mark.parametrize("tile", [0, 64])
def test_floats_of_output_count_four_times(tile):
    model = SeemoRe(**SMALL)
    integers, floats = (exact.memory_needed(model, 1, 200, 300, tile, itemsize=size) for size in (1, 4))
    rows = 200 if tile == 0 else 64
    row = 3 * 300 * model.scale**2
    assert floats - integers >= 3 * rows * row


def test_a_hundred_megapixels_fit_into_four_gigabytes():
    """With what the process itself and a uint8 input take: 0.25 and 0.3 GB."""
    model = SeemoRe(**variants.config("l-x4"))
    available = 4 * 2**30 - int(0.55e9)
    for size in ((8000, 12500), (1000, 100_000), (100_000, 1000)):
        tile = exact.choose_tile(model, 1, *size, available)
        assert exact.memory_needed(model, 1, *size, tile, stream_in_file=True) <= available
        assert tile >= 256


# ---- What the caller sees --------------------------------------------------------------------------------


def test_bytes_in_bytes_out():
    model = oracle().float()
    pixels = torch.randint(0, 256, (1, 3, 70, 65), dtype=torch.uint8)
    got = tiled(model, pixels, 32)
    exact = run(model, pixels / 255).double() * 255
    assert got.dtype == torch.uint8
    assert (got - exact.clamp(0, 255)).abs().max() <= 0.501


def test_rows_come_as_soon_as_they_are_done():
    model = oracle()
    events: list[tuple[str, int]] = []
    exact.upscale_exact(
        model,
        torch.rand(1, 3, 99, 65, dtype=torch.float64),
        48,
        emit=lambda first, rows: events.append(("row", first)),
        progress=lambda done, total: events.append(("tile", total - done)),
    )
    tiles = grid_for(model, 99, 65, 48).count
    left = [n for kind, n in events if kind == "tile"]
    assert len(left) == 3 * tiles
    assert left == sorted(set(left), reverse=True)
    assert left[-1] == 0
    assert next(n for kind, n in events if kind == "row") == 0
    assert events.index(("row", 0)) < len(events) - tiles // 2, "the first rows come before the last tiles"


@pytest.mark.parametrize("after", [0, 1, 7])
def test_cancelled_between_tiles(after, tmp_path):
    asked = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > after

    x = torch.rand(1, 3, 70, 65, dtype=torch.float64)
    with pytest.raises(Cancelled):
        tiled(oracle(), x, 32, cancelled=cancelled, memory=0, folder=tmp_path)
    assert len(asked) == after + 1


def test_a_tile_as_large_as_the_image_is_one_call():
    model, calls = oracle(), []
    x = torch.rand(1, 3, 50, 33, dtype=torch.float64)
    got = tiled(model, x, 64, progress=lambda *call: calls.append(call))
    assert torch.equal(got, run(model, x))
    assert calls == [(1, 1)]


def test_a_tile_that_is_too_small_is_refused():
    with pytest.raises(SeemoreError, match="tile must be at least 32 pixels for exact tiling, got 31"):
        tiled(oracle(), torch.rand(1, 3, 50, 50), 31)


def test_a_full_disk_is_one_error_before_any_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(SeemoreError, match=r"0\.0 GB free, but the tiles of this image need 0\.0 GB"):
        tiled(oracle(), torch.rand(1, 3, 99, 65), 32, memory=0, folder=tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(SeemoreError, match="missing: no temporary file"):
        tiled(oracle(), torch.rand(1, 3, 99, 65), 32, memory=0, folder=tmp_path / "missing")


def test_a_write_that_fails_on_the_way(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(SeemoreError, match="temporary file of tiles: No space left on device"):
        tiled(oracle(), torch.rand(1, 3, 99, 65, dtype=torch.float64), 32, memory=0, folder=tmp_path)


# ---- Parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("halo", "align"), [(12, 4), (12, 16), (12, 64), (28, 16)])
@pytest.mark.parametrize("tile", [32, 48, 100])
def test_tiles_and_pieces_cover_an_axis(tile, halo, align):
    for length in range(1, 400):
        axis = Axis(length, tile, halo, align)
        assert [s.start for s in axis.spans[1:]] == [s.stop for s in axis.spans[:-1]]
        assert (axis.spans[0].start, axis.spans[-1].stop) == (0, length)
        assert all(s.start % align == 0 and len(s) > 0 for s in axis.spans)
        assert max(map(len, axis.spans)) <= max(tile, 2 * -(-halo // align) * align)
        for span in axis.spans:
            for region in (span.own, span.crop):
                pieces = [piece for _, piece in axis.pieces_of(region)]
                assert [region.start] + [p.stop for p in pieces] == [p.start for p in pieces] + [region.stop]
            for other in axis.spans:
                reads = {i for i, _ in axis.pieces_of(other.crop)}
                for i, piece in axis.pieces_of(span.own):
                    assert piece.shared or other is span or i not in reads


def test_near_ties_are_decided_in_float64():
    """By the mean, not by float32 sums; equal ones by the lower index."""
    layer = reference.MoRE(2, [2, 2, 2], 2)
    layer.gate.body["2"].weight.data = torch.tensor([[1.0, 0.0], [1.0, 1e-7], [1.0, 0.0]])
    assert route(layer, torch.tensor([1e6, 1e6], dtype=torch.float64), 10**6).experts == [1, 0]
    assert route(layer, torch.tensor([5.0, 0.0], dtype=torch.float64), 1).experts == [0, 1]


def test_sixteen_bits_on_disk_where_the_network_computes_in_them(tmp_path, caplog):
    """bfloat16's own error is 4e-3: the file adds less than as much again."""
    model, x = oracle().float(), torch.rand(1, 3, 99, 65)
    want = run(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        in_memory = tiled(model, x, 32)
        in_file = tiled(model, x, 32, memory=0, folder=tmp_path)
    assert not torch.equal(in_file, in_memory), "the file has 16 bits"
    error, allowed = ((got - want).square().mean().sqrt() for got in (in_file, in_memory))
    assert error <= 2 * allowed


def sizes_of_files(monkeypatch) -> list[tuple[torch.dtype, int]]:
    """What each store keeps, and in how many bytes."""
    kept = []

    def store(grid, images, channels, dtype, device, folder):
        kept.append((dtype, dtype.itemsize * images * exact.Layout(grid, channels).size))
        return Store(grid, images, channels, dtype, device, folder)

    monkeypatch.setattr(exact, "Store", store)
    return kept


@pytest.mark.parametrize("name", ["t-x2", "t-x3", "t-x4"])
def test_sixteen_bits_on_disk_for_eight_in_the_picture(name, tmp_path, monkeypatch):
    """fp32's gate, 1e-5 against float64, holds; so does the trial's judgement, which a bad network fails."""
    model = load(name)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 20, 26), scale_factor=5, mode="bicubic").clamp(0, 1)
    x = (255 * x).round().to(torch.uint8)
    kept = sizes_of_files(monkeypatch)
    in_file = tiled(model, x, 64, memory=0, folder=tmp_path)
    assert [dtype for dtype, _ in kept] == [torch.int16, torch.int16], "the trial and the picture"
    in_memory = tiled(model, x, 64)
    assert kept[-1] == (torch.float32, 2 * kept[-2][1])
    differ = (in_file.int() - in_memory.int()).abs()
    assert differ.max() <= 1
    assert differ.float().mean() < 2e-3
    wide = reference.SeemoRe(**model.config)
    wide.load_state_dict(model.state_dict())
    want = run(wide.double().eval(), x.double() / 255)
    monkeypatch.setattr(exact, "Store", lambda *a: Store(*a[:3], torch.int16, *a[4:]))
    got = tiled(model, x.float() / 255, 64, memory=0, folder=tmp_path)
    assert golden.relative_l2(got, want) <= 1e-5


def test_a_network_that_does_not_bear_sixteen_bits(tmp_path, monkeypatch):
    """More than 8 bits a pixel, and a trial that fails, keep 32."""
    kept = sizes_of_files(monkeypatch)
    model, x = oracle().float(), torch.randint(0, 256, (1, 3, 100, 110), dtype=torch.uint8)
    tiled(model, x.float() / 255, 64, memory=0, folder=tmp_path)
    assert [dtype for dtype, _ in kept] == [torch.float32]
    monkeypatch.setattr(exact, "_ROUNDING", 1e-9)
    tiled(model, x, 64, memory=0, folder=tmp_path)
    assert [dtype for dtype, _ in kept[1:]] == [torch.int16, torch.float32]


def test_the_time_is_foretold(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(duration, "_TRIAL", 64)
    tiled(oracle().float(), torch.rand(1, 3, 260, 256), 128, memory=0, folder=tmp_path)
    assert re.search(
        r"sweeps of \d+ tiles, in about \d+ (s|min), with a temporary file of", caplog.messages[0]
    )
    assert list(tmp_path.iterdir()) == []


def test_a_forecast_adds_up():
    """The network's time for every pixel of every crop, half of RME once more, and the file's bytes."""
    model = oracle()
    grid = grid_for(model, 260, 256, 128)
    crops = sum(map(crop_size, grid.rows.spans)) * sum(map(crop_size, grid.columns.spans))
    layers = model.config["num_layers"]
    bare = list(duration.Forecast(model, grid, 2, 4, 1e-6, duration.Disk()).tiles())
    assert len(bare) == grid.count * (layers + 1)
    whole = sum(bare) / (2e-6 * crops)
    assert 1 < whole < 1 + 0.37
    assert sum(bare[: grid.count]) < sum(bare[grid.count : 2 * grid.count])
    disk = duration.Disk(first=3e-9, write=1e-9, read=2e-9)
    filed = list(duration.Forecast(model, grid, 2, 4, 1e-6, disk).tiles())
    values = 2 * 4 * model.config["embedding_dim"]
    written = 260 * 256 * (3e-9 + (layers - 2) * 1e-9)
    assert sum(filed) - sum(bare) == pytest.approx(values * (written + (layers - 1) * crops * 2e-9))
    assert filed[: grid.count] == bare[: grid.count]


def test_a_disk_is_measured(tmp_path, monkeypatch):
    ticks = itertools.count()  # each action takes one
    monkeypatch.setattr(duration.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(duration.machine, "free_memory", lambda: 2 << 20)
    tick = 1 / duration._BLOCK
    assert duration.measured_disk(tmp_path, 1 << 20) == duration.Disk(tick, tick, tick)
    waits = duration.Disk(2 * tick, 2 * tick, 2 * tick)
    assert duration.measured_disk(tmp_path, (1 << 20) + 1) == waits, "what memory does not hold waits for it"
    assert list(tmp_path.iterdir()) == []
    assert duration.measured_disk(tmp_path / "none", 1) == duration.Disk()


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (99, "99 s"), (700, "12 min"), (9000, "2.5 h")])
def test_times_in_words(seconds, said):
    assert duration.in_words(seconds) == said
