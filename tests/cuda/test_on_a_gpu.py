"""The CUDA engine on a GPU: parity in every precision, streams, graphs, threads, the same bits every time.

benchmarks/gpu.sh runs these; those named "small" also under compute-sanitizer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from seemore_fast import SeemoRe, Upscaler
from seemore_fast.backends import choice, devices
from seemore_fast.engines import cuda_engine, fused
from seemore_fast.network import reference, variants
from tests.support import golden

WHY_NOT = choice.missing("cuda")

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"needs a GPU and the CUDA engine: {WHY_NOT}")

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(autouse=True)
def _tf32_is_off_elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def run(model: nn.Module, x: Tensor, precision: str = "fp32") -> Tensor:
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    dtype = DTYPES.get(precision)
    with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype is not None):
        return model(x)


def network(variant: str = "t-x4", **changes) -> SeemoRe:
    config = {**variants.config(variant), **changes}
    return golden.fill(SeemoRe(**config, backend="cuda"), seed=11).cuda().eval()


def oracle_of(model: SeemoRe) -> reference.SeemoRe:
    oracle = reference.SeemoRe(**model.config)
    oracle.load_state_dict(model.state_dict())
    return oracle.double().eval()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", golden.EVALUATION)
def test_golden(name, precision, poisoned_memory):
    """fp32 within 1e-5 of float64; the others err at most twice as much as PyTorch in the same format."""
    case = golden.load(name)
    model = case.fill(SeemoRe(**case.config, backend="cuda")).cuda()
    got = run(model, case.x.float().cuda(), precision)
    want = case.expected["output"]
    assert golden.relative_l2(got, want) <= allowed_error(model, case.x.cuda(), want, precision)


def allowed_error(model: SeemoRe, x: Tensor, want: Tensor, precision: str) -> float:
    if precision == "fp32":
        return 1e-5
    dtype = DTYPES.get(precision, torch.float16)  # TF32 has as many bits as float16
    return 2 * golden.relative_l2(run(oracle_of(model).to("cuda", dtype), x.to(dtype)), want)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [(16, 16), (17, 66), (33, 17), (180, 321), (257, 130)], ids=str)
def test_odd_sizes(size, precision, poisoned_memory):
    """All experts are chosen, so that none can flip."""
    model = network(num_layers=2, topk=3)
    x = torch.rand(1, 3, *size, device="cuda")
    want = run(oracle_of(model).cuda(), x.double())
    assert golden.relative_l2(run(model, x, precision), want) <= allowed_error(model, x, want, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("channels", [72, 130])
def test_wide_networks(channels, precision, poisoned_memory):
    """As above, on the kernels for more channels than the fused ones hold."""
    model = network(num_layers=2, topk=3, embedding_dim=channels)
    x = torch.rand(2, 3, 65, 98, device="cuda")
    want = run(oracle_of(model).cuda(), x.double())
    assert golden.relative_l2(run(model, x, precision), want) <= allowed_error(model, x, want, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_small_batch_for_the_sanitizer(precision):
    """Two images of 32x32 by the engine's launches and by a graph."""
    model = network("b-x2", num_layers=2)
    x = torch.rand(2, 3, 32, 32).cuda()  # initcheck sees copies, and of the kernels only ours
    outs = [run(model, x, precision) for _ in range(3)]
    torch.cuda.synchronize()
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])
    assert outs[0].isfinite().all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [(64, 64), (360, 640)], ids=str)
def test_250_runs_are_bitwise_equal(size, precision):
    """By graphs and by single launches."""
    model = network("b-x2")
    x = torch.rand(2, 3, *size, device="cuda")
    first = run(model, x, precision)
    for _ in range(250):
        assert torch.equal(run(model, x, precision), first)


def test_other_streams():
    """Work is ordered by the stream it is given, workspaces and graphs are not mixed up between streams."""
    model = network()
    images = [torch.rand(1, 3, 40 + 8 * (i % 3), 64, device="cuda") for i in range(12)]
    want = [run(model, x) for x in images]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    for _ in range(5):
        outs = []
        for i, x in enumerate(images):
            with torch.cuda.stream(streams[i % 4]):
                outs.append(run(model, x * 1))  # input made on this stream, and freed before it is read
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(outs, want, strict=True))


def test_threads_share_a_model():
    model = network(num_layers=2)
    images = [torch.rand(1 + i % 2, 3, 32 + 5 * i, 48, device="cuda") for i in range(8)]
    want = [run(model, x) for x in images]
    model.invalidate()

    def work(i: int) -> bool:
        with torch.cuda.stream(torch.cuda.Stream()):
            outs = [run(model, images[i]) for _ in range(20)]
            torch.cuda.current_stream().synchronize()
        return all(torch.equal(out, want[i]) for out in outs)

    torch.cuda.synchronize()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_nothing_waits_for_the_gpu():
    model = network()
    x = torch.rand(1, 3, 96, 96, device="cuda")
    for _ in range(3):
        run(model, x)
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)  # a tenth of a second on the stream
    begun = torch.cuda.Event()
    begun.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(model, x)
        run(model, x.to(memory_format=torch.channels_last))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not begun.query(), "the calls returned before the GPU came to them"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("size", [(32, 48), (400, 600)], ids=str)
def test_inside_a_users_graph(size, precision):
    model = network()
    static = torch.rand(1, 3, *size, device="cuda")
    run(model, static, precision)  # packs the weights
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(model, static, precision)
    for _ in range(3):
        x = torch.rand_like(static)
        static.copy_(x)
        with torch.inference_mode():
            out.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        got = out.clone()
        assert torch.equal(got, run(model, x, precision))
        with torch.no_grad():
            model.norm.bias.add_(0.0)  # packed anew: the graph must still have the weights that it points to


def test_a_graph_of_ours_beside_a_users_capture():
    """In another thread, while this one captures."""
    model = network(num_layers=1)
    x = torch.rand(1, 3, 32, 32, device="cuda")
    want = run(model, x)
    torch.cuda.synchronize()
    found: list[Tensor] = []

    def beside() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            found.extend(run(model, x) for _ in range(3))

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = run(model, x)
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(got, want) for got in (out, *found))
    assert len(found) == 3


def test_evicted_graphs_are_freed_safely(monkeypatch):
    monkeypatch.setattr("seemore_fast.engines.cuda_graphs.MOST_GRAPHS", 2)
    model = network(num_layers=1)
    images = [torch.rand(1, 3, 16 + i, 32, device="cuda") for i in range(6)]
    want = [run(model, x) for x in images]
    model.invalidate()
    for _ in range(3):
        for x, expected in zip(images, want, strict=True):
            outs = [run(model, x) for _ in range(3)]
            assert all(torch.equal(out, expected) for out in outs)


def test_memory_goes_back():
    """Working memory is the allocator's: after a call nothing of it is in use."""
    model = network()
    x = torch.rand(1, 3, 500, 700, device="cuda")
    run(model, x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        run(model, x)
    assert torch.cuda.memory_allocated() == before


def test_out_of_memory_leaves_the_model_usable():
    model = network()
    x = torch.rand(1, 3, 64, 64, device="cuda")
    want = run(model, x)
    large = torch.rand(1, 3, 2000, 2000).cuda()
    torch.cuda.empty_cache()
    used = torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(used + 1e-3)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            run(model, large)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(run(model, x), want)


def test_pictures_are_those_of_the_cpu():
    """But where rounding to 8 bits falls the other way."""
    picture = (torch.rand(70, 90, 3) * 255).byte().numpy()
    on_gpu = Upscaler("t-x4", "cuda", backend="cuda").up(picture).astype(int)
    difference = abs(on_gpu - Upscaler("t-x4", "cpu").up(picture).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize("shape", [(5, 7, 3), (2100, 3000, 3)], ids=str)
def test_pictures_go_to_the_gpu_and_come_back(shape):
    """The larger one in several pieces, again and again through the same locked memory."""
    pictures = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(5)]
    there = [devices.to_device(x, torch.device("cuda")) for x in pictures]
    assert all(torch.equal(devices.to_host(y), x) for x, y in zip(pictures, there, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_input_decides_on_the_device():
    x = torch.rand(1, 3, 40, 40)
    model = network(num_layers=2)
    want = run(model, x.cuda())
    other = model.to("cuda:1")
    assert torch.cuda.current_device() == 0
    got = run(other, x.to("cuda:1"))
    assert got.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    assert golden.relative_l2(got, want) <= 1e-6


def test_triton_by_name_takes_the_fused_operators(monkeypatch):
    """Also without gradients, where nothing else would."""
    if (why := choice.missing("triton")) is not None:
        pytest.skip(f"triton: {why}")
    seen, forward = [], fused.forward

    def spy(model: reference.SeemoRe, x: Tensor, backend: str) -> Tensor:
        seen.append(backend)
        return forward(model, x, backend)

    monkeypatch.setattr(fused, "forward", spy)
    model = network(num_layers=2)
    model.backend = "triton"
    x = torch.rand(1, 3, 32, 32, device="cuda")
    assert golden.relative_l2(run(model, x), run(oracle_of(model).cuda(), x.double())) <= 1e-5
    assert seen == ["triton"]


def test_a_capture_leaves_random_numbers_alone(monkeypatch):
    """PyTorch's generator has the state that it had, and serves another thread meanwhile."""
    model, x = network(num_layers=1), torch.rand(1, 3, 32, 32, device="cuda")
    drawn, state = [], torch.cuda.get_rng_state()
    launch = cuda_engine.launch

    def launch_and_draw(*arguments) -> None:
        if torch.cuda.is_current_stream_capturing():
            with ThreadPoolExecutor(1) as other:
                drawn.append(other.submit(lambda: torch.rand(8, device="cuda").cpu()).result())
        launch(*arguments)

    monkeypatch.setattr(cuda_engine, "launch", launch_and_draw)
    outs = [run(model, x) for _ in range(3)]
    assert torch.equal(outs[0], outs[2])
    assert len(drawn) == 1, "during the capture"
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(8, device="cuda").cpu(), drawn[0])
