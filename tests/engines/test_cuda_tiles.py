"""Exact tiling on the CUDA engine: the very bits of one call, in the simulator where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from seemore_fast import SeemoRe, Upscaler
from seemore_fast.network import variants
from seemore_fast.upscale import exact, upscaler
from seemore_fast.upscale.exact.cuda import CudaStages
from tests.support import golden, on_cuda
from tests.support.on_cuda import run
from tests.support.tiles import pictures, tiled


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[CudaStages]:
    """Those that are made: an engine that was not asked would not be noticed."""
    made: list[CudaStages] = []
    init = CudaStages.__init__

    def spy(self, *arguments) -> None:
        made.append(self)
        init(self, *arguments)

    monkeypatch.setattr(CudaStages, "__init__", spy)
    return made


def deep(name: str, layers: int, device: str) -> SeemoRe:
    """Some layers of a variant."""
    config = {**variants.config(name), "num_layers": layers}
    return golden.fill(SeemoRe(**config, backend="cuda"), seed=3).to(device).eval()


def low(device: str, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    ("name", "layers", "dtype", "size", "tile"),
    [
        ("t-x4", 2, torch.bfloat16, (17, 130), 64),
        pytest.param("b-x2", 1, torch.float16, (130, 19), 32, marks=pytest.mark.full),
        pytest.param("t-x2", 2, torch.float32, (130, 19), 64, marks=pytest.mark.full),
        pytest.param("t-x4", 3, torch.float16, (20, 135), 64, marks=pytest.mark.full),
        pytest.param("b-x4", 2, torch.float32, (17, 200), 64, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_variants(device, stages, name, layers, dtype, size, tile):
    model = deep(name, layers, device)
    x = pictures(3, *size).to(device, dtype)[1:]
    with low(device, dtype):
        got, whole = tiled(model, x, tile), run(model, x).cpu()
    assert stages
    assert got.dtype == dtype
    assert torch.equal(got, whole)


@pytest.mark.full
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "config",
    [
        {"topk": 2, "img_range": 2.0, "use_shuffle": True, "num_layers": 3},
        {"recursive": 1, "scale": 3, "embedding_dim": 13, "num_layers": 2},
        {"recursive": 3},
        {"global_kernel_size": 41},
        {"in_chans": 9, "num_experts": 20, "lr_space": "linear", "topk": 3},
        {"num_layers": 0, "in_chans": 1},
    ],
    ids=str,
)
def test_networks(device, stages, config):
    """Batches of two, each image routed on its own."""
    model = on_cuda.small(device, **config)
    least = model.min_size
    size = (least, 2 * least + 1) if least > 16 else (35, 131)
    x = pictures(config.get("in_chans", 3), *size).float().to(device)
    with low(device, torch.bfloat16):
        assert torch.equal(tiled(model, x, 64), run(model, x).cpu())
    assert stages


@pytest.mark.full
@pytest.mark.parametrize("size", [(16, 200), (199, 17), (64, 97), (33, 130), (5, 100)], ids=str)
def test_sizes(device, stages, size):
    model = on_cuda.small(device, embedding_dim=20)
    x = pictures(3, *size).float().to(device)[1:]
    with low(device, torch.bfloat16):
        whole = run(model, x).cpu()
        for tile in (32, 70):
            assert torch.equal(tiled(model, x, tile), whole), f"tile {tile}"
    assert stages


@pytest.mark.full
def test_bytes(device, stages, tmp_path):
    """In 16 bit, also where the stream is in a file: it keeps what the engine computes."""
    model = on_cuda.small(device, num_layers=2)
    pixels = torch.randint(0, 256, (2, 3, 20, 135), dtype=torch.uint8, device=device)
    with low(device, torch.bfloat16):
        whole = run(model, pixels).cpu()
        assert torch.equal(tiled(model, pixels, 64), whole)
        assert torch.equal(tiled(model, pixels, 64, memory=0, folder=tmp_path), whole)
    assert stages


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"recursive": 2}, torch.bfloat16),
        pytest.param({"num_layers": 2, "use_shuffle": True}, torch.float16, marks=pytest.mark.full),
        pytest.param({"recursive": 3, "topk": 2, "scale": 3}, torch.float32, marks=pytest.mark.full),
        pytest.param({"recursive": 1, "in_chans": 9}, torch.float16, marks=pytest.mark.full),
        pytest.param({"num_layers": 0}, torch.float32, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_wide_networks(device, stages, config, dtype):
    """Of more than 64 channels."""
    model = on_cuda.small(device, **{"embedding_dim": 72, **config})
    rows = max(17, model.min_size)
    x = pictures(config.get("in_chans", 3), rows, max(97, 2 * rows + 1)).to(device, dtype)[1:]
    with low(device, dtype):
        assert torch.equal(tiled(model, x, 32), run(model, x).cpu())
    assert stages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: 16}, "multiples of 32"),
        ({4: 90}, "lie in the image"),
        ({5: 200}, "must lie in the image"),
        ({0: 65568, 1: 65536, 4: 65536, 5: 65536}, "at most 2147483647 pixels"),
    ],
    ids=str,
)
def test_the_engine_refuses_a_crop_that_lies_badly(device, change, message):
    model = on_cuda.small(device)
    network = on_cuda.network_of(model, pictures(3, 99, 131).float().to(device))
    area = [99, 131, 32, 0, 60, 60]
    for at, value in change.items():
        area[at] = value
    workspace = torch.empty(0, dtype=torch.uint8, device=device)
    with pytest.raises(ValueError, match=message):
        network.tile(0, 0, area, workspace)


def test_the_choice_fits(device):
    """With a stream of 2 bytes a value, and of a GPU's memory no row of the output."""
    model = deep("t-x4", 1, device)
    size = 3000, 4000
    with low(device, torch.bfloat16):
        whole = exact.memory_needed(model, 1, *size, 0, itemsize=4)
        assert exact.choose_tile(model, 1, *size, whole) == 0
        for part in (1.01, 2, 4, 10):
            tile = exact.choose_tile(model, 1, *size, available=int(whole / part))
            needed = [exact.memory_needed(model, 1, *size, tile, stream_in_file=f) for f in (True, False)]
            assert needed[0] <= whole / part
            assert needed[1] - needed[0] == pytest.approx(2 * 36 * 3000 * 4000, rel=0.2)


def test_a_picture_that_does_not_fit(device, stages, monkeypatch):
    """Upscaler takes tiles where the GPU's free memory is too small for one call."""
    model = on_cuda.small(device)
    pixels = torch.randint(0, 256, (20, 200, 3), dtype=torch.uint8).numpy()
    whole = Upscaler(model, dtype="bf16", tile=0).up(pixels)
    assert not stages
    monkeypatch.setattr(upscaler, "free_memory", lambda device: 2_000_000)
    differ = Upscaler(model, dtype="bf16").up(pixels) != whole
    assert stages
    assert not differ.any()


@pytest.mark.full
def test_a_limit_of_memory(device, stages):
    model = on_cuda.small(device)
    pixels = torch.randint(0, 256, (20, 200, 3), dtype=torch.uint8).numpy()
    whole = Upscaler(model, dtype="bf16", tile=0).up(pixels)
    model.workspace_limit = 1_000_000
    assert (Upscaler(model, dtype="bf16").up(pixels) == whole).all()
    assert stages
