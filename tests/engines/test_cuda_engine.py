"""SeemoRe on the CUDA engine: packing, precision, streams' memory, graphs, refusals.

On a GPU where there is one, else with the simulator in its place; what only a GPU can show is in
test_cuda_gpu.py.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from seemore_fast import SeemoRe, Upscaler
from seemore_fast.backends import choice, cuda_programs, native
from seemore_fast.engines import cuda_engine, cuda_graphs, fused
from seemore_fast.errors import BackendError
from seemore_fast.network import reference
from seemore_fast.upscale import exact
from tests.support import golden
from tests.support.on_cuda import network_of, run, small

pytestmark = pytest.mark.usefixtures("compiler")


def oracle_of(model: SeemoRe) -> reference.SeemoRe:
    oracle = reference.SeemoRe(**model.config)
    oracle.load_state_dict(model.state_dict())
    return oracle.double().eval()


def error_of(model: SeemoRe, x: Tensor) -> float:
    return golden.relative_l2(run(model, x), run(oracle_of(model), x.cpu().double()))


# ---- Which backend runs ----------------------------------------------------------------------------------


def test_auto_takes_it(device, launches):
    model = small(device, "auto")
    x = torch.rand(1, 3, 17, 19, device=device)
    assert error_of(model, x) <= 1e-5
    assert launches == [(1, 3, 17, 19)]
    model.backend = "reference"
    run(model, x)
    assert len(launches) == 1


def test_gradients_do_not_take_it(device, launches, monkeypatch):
    monkeypatch.setattr(fused, "forward", lambda model, x, backend: reference.SeemoRe.forward(model, x))
    model = small(device, "auto")
    model(torch.rand(1, 3, 16, 16, device=device)).sum().backward()
    assert not launches
    run(model, torch.rand(1, 3, 16, 16, device=device))
    run(model.double(), torch.rand(1, 3, 16, 16, device=device).double())
    assert len(launches) == 1, "float64 takes the reference"


def test_beyond_its_limits(device, launches, caplog):
    config = {"num_experts": 65, "lr_space": "linear"}
    x = torch.rand(1, 3, 16, 16, device=device)
    message = r"num_experts must lie in 1\.\.64 for the CUDA engine, got 65"
    with pytest.raises(BackendError, match=message):
        run(small(device, **config), x)
    model = small(device, "auto", **config)
    with caplog.at_level(logging.INFO, "seemore_fast"):
        first, second = run(model, x), run(model, x)
    assert first.shape == (1, 3, 32, 32)
    assert torch.equal(first, second)
    assert caplog.text.count("backend cuda cannot run this network") == 1
    assert not launches


class Library:
    """A native library that finds a driver with a GPU of this capability, or does not."""

    def __init__(self, error: str | None = None, capability: int = 90):
        self.error = error
        self.capability = capability

    def cuda_devices(self) -> int:
        if self.error:
            raise BackendError(self.error)
        return 1

    def cuda_capability(self, device: int) -> int:
        return self.capability


def test_why_it_is_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(native, "lib", Library("NVIDIA's driver is not installed"))
    assert choice.missing("cuda") == "NVIDIA's driver is not installed"
    assert choice.resolve("auto", "cuda") == "reference"
    with pytest.raises(BackendError, match="'cuda' is not available: NVIDIA's driver is not installed"):
        SeemoRe(backend="cuda")
    monkeypatch.setattr(native, "lib", Library())
    assert f"PyTorch {torch.__version__} finds no GPU" in choice.missing("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_programs, "obstacle", lambda capability: f"no kernels for {capability}")
    assert choice.missing("cuda") == "no kernels for 90"
    monkeypatch.setattr(cuda_programs, "obstacle", lambda capability: None)
    assert choice.missing("cuda") is None
    assert choice.resolve("auto", "cuda") == "cuda"
    with pytest.raises(BackendError, match="'cuda' computes on cuda, but the input is on cpu"):
        choice.resolve("cuda", "cpu")


# ---- Precision -------------------------------------------------------------------------------------------


def test_precision(device):
    model = small(device)
    x = torch.rand(1, 3, 16, 16, device=device)
    assert cuda_engine.precision_for(model, x) == "fp32"
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        with torch.autocast(device, dtype):
            assert cuda_engine.precision_for(model, x) == name
        assert cuda_engine.precision_for(small(device).to(dtype), x) == name
    with torch.autocast(device, torch.bfloat16):
        assert cuda_engine.precision_for(small(device).half(), x) == "bf16", "autocast comes first"


def test_tf32_follows_pytorch(device):
    model = small(device)
    x = torch.rand(1, 3, 16, 16, device=device)
    before = torch.get_float32_matmul_precision()
    try:
        for setting, name in (("high", "tf32"), ("medium", "tf32"), ("highest", "fp32")):
            torch.set_float32_matmul_precision(setting)
            assert cuda_engine.precision_for(model, x) == name
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # the newer switch
        assert cuda_engine.precision_for(model, x) == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_each_precision_has_its_own_weights(device):
    model = small(device)
    x = torch.rand(1, 3, 17, 19, device=device)
    exact = run(model, x)
    with torch.autocast(device, torch.bfloat16):
        rough = run(model, x)
        network = network_of(model, x)
    assert rough.dtype == torch.float32
    assert 1e-4 < golden.relative_l2(rough, exact.double()) < 3e-2
    assert network is not network_of(model, x)
    assert torch.equal(run(model, x), exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pixels_keep_their_dtype(dtype, device):
    model = small(device).to(dtype)
    x = torch.rand(1, 3, 17, 18, device=device)
    got = run(model, x.to(dtype))
    assert got.dtype == dtype
    assert torch.equal(got, run(model, x.to(dtype).float()).to(dtype))


def test_uint8(device):
    model = small(device)
    x = torch.randint(0, 256, (1, 3, 17, 18), dtype=torch.uint8, device=device)
    exact = (run(model, x / 255) * 255).clamp(0, 255)
    got = run(model, x)
    assert got.dtype == torch.uint8
    assert (got.float() - exact).abs().max() <= 0.5 + 1e-3


# ---- Input -----------------------------------------------------------------------------------------------


def test_memory_formats(device):
    model = small(device)
    x = torch.rand(1, 3, 16, 17, device=device)
    want = run(model, x)
    assert torch.equal(run(model, x.contiguous(memory_format=torch.channels_last)), want)
    wide = torch.zeros(1, 3, 32, 18, device=device)
    wide[:, :, ::2, 1:] = x
    assert torch.equal(run(model, wide[:, :, ::2, 1:]), want)
    assert torch.equal(run(model, x.mT.contiguous().mT), want)


def test_a_batch_is_its_images(device):
    model = small(device)
    x = torch.rand(1, 3, 17, 19, device=device)
    other = x.flip(3) * torch.tensor([1.0, 0.2, 0.0], device=device)[:, None, None]
    assert torch.equal(run(model, torch.cat([other, x])), torch.cat([run(model, other), run(model, x)]))


def test_sizes(device):
    model = small(device)
    assert error_of(model, torch.rand(1, 3, 16, 33, device=device)) <= 1e-5
    x = torch.rand(1, 3, 5, 3, device=device)
    assert run(model, x).shape == (1, 3, 10, 6), "smaller than the network takes"
    assert run(model, x[:0]).shape == (0, 3, 10, 6)


# ---- Weights ---------------------------------------------------------------------------------------------


def add_in_place(model: SeemoRe) -> None:
    with torch.no_grad():
        model.body[0].local_block.block.proj.bias.add_(0.5)


def load_others(model: SeemoRe) -> None:
    golden.fill(model, seed=12)


def replace(model: SeemoRe) -> None:
    model.conv_2.bias = nn.Parameter(model.conv_2.bias.detach() + 0.5)


def replace_a_module(model: SeemoRe) -> None:
    model.conv_2 = copy.deepcopy(model.conv_2)
    with torch.no_grad():
        model.conv_2.weight.mul_(2)


def move_the_mean(model: SeemoRe) -> None:
    model.mean += 0.25


def through_data(model: SeemoRe) -> None:
    model.conv_2.bias.data.add_(0.5)
    model.invalidate()


@pytest.mark.parametrize(
    "change", [add_in_place, load_others, replace, replace_a_module, move_the_mean, through_data]
)
def test_changed_weights_are_seen(change: Callable[[SeemoRe], None], device):
    """Also by shapes of which there was a graph."""
    model = small(device)
    x = torch.rand(1, 3, 17, 19, device=device)
    before = [run(model, x) for _ in range(2)][1]
    packed = network_of(model, x)
    assert network_of(model, x) is packed
    change(model)
    after = run(model, x)
    assert not torch.equal(after, before)
    assert torch.equal(run(model, x), after)
    oracle = oracle_of(model)
    oracle.mean = model.mean.double().cpu()
    assert golden.relative_l2(after, run(oracle, x.cpu().double())) <= 1e-5


def test_weights_made_in_inference_mode(device):
    with torch.inference_mode():
        model = small(device)
        x = torch.rand(1, 3, 17, 19, device=device)
        before = model(x)
        packed = model.packed_for(x)[1]
        assert model.packed_for(x)[1] is packed
        load_others(model)
        assert not torch.equal(model(x), before)


def test_copies_share_nothing(device):
    model = small(device)
    x = torch.rand(1, 3, 16, 16, device=device)
    want = run(model, x)
    other = copy.deepcopy(model)
    assert other.cuda_engine is not model.cuda_engine
    load_others(model)
    assert torch.equal(run(other, x), want)


# ---- Memory and tiles ------------------------------------------------------------------------------------


def test_workspace_limit(device):
    model = small(device)
    x = torch.rand(1, 3, 16, 16, device=device)
    needed = network_of(model, x).workspace(x)
    model.workspace_limit = needed - 1
    with pytest.raises(MemoryError, match=f"workspace_limit of {needed - 1} bytes .* at least {needed}"):
        run(model, x)
    model.workspace_limit = needed
    run(model, x)


def test_exact_tiles_run_on_the_plain_network(device, launches):
    """The engine has no phases for tiles yet; one tile is one call."""
    model = small(device, "auto")
    x = torch.rand(1, 3, 70, 40, device=device)
    want = run(model, x)
    rows: list[Tensor] = []
    exact.upscale_exact(model, x, 48, lambda first, part: rows.append(part.clone()))
    assert golden.relative_l2(torch.cat(rows, dim=2), want.double()) <= 1e-5
    assert len(launches) == 1


def test_memory_needed_counts_the_workspace_and_the_graph(device, monkeypatch):
    model = small(device, "auto")
    x = torch.empty(1, 3, 40, 50, device=device)
    pixels = 3 * 40 * 50
    work = network_of(model, x).workspace(x) + 4 * pixels * (1 + 4)
    assert exact.memory_needed(model, 1, 40, 50, 0) == 2 * work + 4 * pixels, "a graph has as much again"
    monkeypatch.setattr(cuda_graphs, "MOST_BYTES", work - 1)
    assert exact.memory_needed(model, 1, 40, 50, 0) == work + 4 * pixels
    assert exact.memory_needed(model, 1, 400, 500, 64) < exact.memory_needed(model, 1, 400, 500, 0)


def test_tiles_are_halved_where_the_gpu_has_no_memory(device, monkeypatch):
    """`torch.OutOfMemoryError` of the workspace, as PyTorch's allocator raises it."""
    model = small(device, "auto")
    allocate = cuda_engine.Network.allocate

    def short(network, x: Tensor) -> Tensor:
        if x.shape[2] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return allocate(network, x)

    monkeypatch.setattr(cuda_engine.Network, "allocate", short)
    picture = torch.rand(70, 36, 3).numpy()
    want = Upscaler(small(device, "reference"), tile=0).up(picture)
    for mode, limit in (("exact", 1e-5), ("local", 1)):
        got = Upscaler(model, tile=0, tile_mode=mode).up(picture)
        assert golden.relative_l2(torch.from_numpy(got), torch.from_numpy(want)) <= limit
