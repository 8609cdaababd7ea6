"""The operators' CUDA C++ kernels in the simulator: against the formula in float64, in several orders.

On a machine with a GPU, the same tests run there, and those that need one.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seemore_fast.backends import choice, cuda_programs, native
from seemore_fast.errors import BackendError
from seemore_fast.network.accuracy import relative_l2
from seemore_fast.ops import _cuda
from tests.support import cudasim
from tests.support.operators import call, convert, make_args, outputs

pytestmark = pytest.mark.usefixtures("compiler")

NAMES = ["striped_conv2d", "low_rank_experts", "mix_experts"]
GPU = choice.missing("cuda") is None
DEVICE = "cuda" if GPU else "cpu"


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch, poisoned_memory: None) -> None:
    """On a GPU; or in the simulator, which takes tensors of the CPU and checks every access to memory."""
    if GPU:
        return
    simulator = cudasim.library()
    simulator.configure(seed=1, check=True)
    monkeypatch.setattr(native, "lib", simulator)
    monkeypatch.setattr(choice, "device_of", lambda x: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_programs, "obstacle", lambda capability: None)
    monkeypatch.setattr(_cuda, "_stream", lambda device: 0)


@pytest.fixture
def gpu() -> None:
    if not GPU:
        pytest.skip(f"needs a GPU and the CUDA kernels: {choice.missing('cuda')}")


def arguments(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, **options) -> dict:
    """Of sizes that keep results near 1; weights in float32."""
    args = make_args(name, shape, **options)
    args = {
        what: (value / max(1, value[0].numel()) ** 0.5 if "weight" in what else value)
        if isinstance(value, Tensor)
        else value
        for what, value in args.items()
    }
    images = {what: args[what].to(dtype) for what in ("x", "k") if what in args}
    return convert({**args, **images}, lambda t: t.to(DEVICE))


def run(name: str, args: dict, direction: Tensor, backend: str = "cuda") -> dict[str, Tensor]:
    """Result and all gradients."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in args.items() if isinstance(v, Tensor)}
    out = outputs(name, {**args, **leaves}, backend=backend)
    found = torch.autograd.grad(out[0], list(leaves.values()), direction, materialize_grads=True)
    kept = {f"result {i}": t.detach() for i, t in enumerate(out)}
    return {**kept, **dict(zip(leaves, found, strict=True))}


def exact(name: str, args: dict, direction: Tensor) -> dict[str, Tensor]:
    return run(name, convert(args, Tensor.double), direction.double(), "reference")


def assert_exact(name: str, shape: tuple[int, ...], limit: float = 5e-6, **options) -> None:
    args = arguments(name, shape, **options)
    direction = torch.randn(shape).to(DEVICE)
    got, want = run(name, args, direction), exact(name, args, direction)
    for what, value in want.items():
        assert got[what].shape == value.shape, what
        assert relative_l2(got[what], value) <= limit, what


@pytest.mark.parametrize("size", [(1, 1), (1, 67), (67, 1), (33, 35)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_sizes(name, size):
    assert_exact(name, (2, 3, *size))


@pytest.mark.parametrize(
    ("k", "gelu", "size"),
    [
        (1, True, (9, 34)),
        (63, True, (9, 34)),
        *((k, gelu, size) for k in (3, 11) for gelu in (False, True) for size in ((9, 34), (35, 68))),
    ],
    ids=str,
)
def test_stripes(k, gelu, size):
    """3 and 11 have kernels of their own, which read four elements at once where the width allows it."""
    assert_exact("striped_conv2d", (1, 2, *size), k=k, gelu=gelu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_begins_anywhere(name, dtype):
    """Not at a multiple of 16 bytes: the same, to rounding, as a copy that does."""
    args = arguments(name, (1, 3, 8, 12), dtype, k=3)
    direction = torch.randn(1, 3, 8, 12).to(DEVICE, dtype)
    want = run(name, args, direction)
    there = torch.empty(args["x"].numel() + 1, dtype=dtype, device=DEVICE)[1:].view(1, 3, 8, 12)
    there = there.copy_(args["x"]).requires_grad_()
    out = outputs(name, {**args, "x": there}, backend="cuda")[0]
    (dx,) = torch.autograd.grad(out, there, direction)
    for got, what in ((out, "result 0"), (dx, "x")):
        assert relative_l2(got, want[what]) <= torch.finfo(dtype).eps, what


@pytest.mark.parametrize("name", ["low_rank_experts", "mix_experts"])
@pytest.mark.parametrize("channels", [1, 5, 36])
def test_channels(name, channels):
    assert_exact(name, (1, channels, 7, 19))


@pytest.mark.parametrize("name", ["low_rank_experts", "mix_experts"])
@pytest.mark.parametrize("shape", [(2, 4, 2, 6), (1, 36, 13, 20), (1, 8, 33, 32)], ids=str)
def test_four_pixels_at_once(name, shape):
    """Also where a tile has less than its 256, and where there are several."""
    assert_exact(name, shape)


@pytest.mark.parametrize(
    ("ranks", "topk"), [((3,), 1), ((1, 2, 4, 8, 16, 33), 3), ((240,), 1), ((1,) * 64, 64)], ids=str
)
def test_ranks(ranks, topk):
    """From 32 ranks on the backward takes one pixel to a lane, from 96 the forward."""
    for size in ((5, 29), (5, 28)):
        assert_exact("mix_experts", (1, 4, *size), ranks=ranks, topk=topk)
        assert_exact("low_rank_experts", (1, 4, *size), ranks=ranks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_low_precision(name, dtype):
    """Errors of results at most twice, of gradients three times those of PyTorch in the same dtype."""
    args = arguments(name, (2, 6, 13, 21), dtype, topk=3)  # all experts are chosen: none can flip
    direction = torch.randn(2, 6, 13, 21).to(DEVICE, dtype)
    got, want = run(name, args, direction), exact(name, args, direction)
    plain = run(name, convert(args, lambda t: t.to(dtype)), direction, "reference")
    for what, value in want.items():
        assert got[what].dtype == (torch.float32 if what == "result 1" else args.get(what, args["x"]).dtype)
        allowed = max(relative_l2(plain[what], value), torch.finfo(dtype).eps)
        assert relative_l2(got[what], value) <= (2 if "result" in what else 3) * allowed, what


@pytest.mark.skipif(GPU, reason="a GPU's order cannot be chosen")
@pytest.mark.parametrize("seeds", [(2,), pytest.param((3, 4, 5), marks=pytest.mark.full)], ids=str)
@pytest.mark.parametrize(
    ("name", "shape", "k"),
    [
        ("striped_conv2d", (2, 264, 34, 3), 5),
        ("striped_conv2d", (2, 264, 34, 4), 3),
        *((name, shape, 1) for name in NAMES[1:] for shape in ((528, 2, 12, 3), (528, 4, 13, 20))),
    ],
    ids=str,
)
def test_any_order_gives_the_same_bits(name, shape, k, seeds):
    """Also where blocks have several tiles, which the next takes before all have left the last.

    That is, where images or planes are as many as blocks that sum up.
    """
    args = arguments(name, shape, k=k)
    direction = torch.randn(shape)
    first = run(name, args, direction)
    for seed in seeds:
        cudasim.library().configure(seed=seed, check=seed == 2)
        again = run(name, args, direction)
        assert all(torch.equal(first[what], again[what]) for what in first), f"seed {seed}"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_what_needs_them_only(name):
    args = arguments(name, (2, 3, 9, 13), k=3)
    direction = torch.randn(2, 3, 9, 13).to(DEVICE)
    every = run(name, args, direction)
    for what, value in args.items():
        if isinstance(value, Tensor):
            leaf = value.detach().requires_grad_()
            out = outputs(name, {**args, what: leaf}, backend="cuda")[0]
            assert torch.equal(torch.autograd.grad(out, leaf, direction)[0], every[what]), what


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_torch(name, monkeypatch):
    """Schema, shapes without data, autograd, and that no results share memory."""
    # Or torch asks the GPU for the state of its random numbers.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    args = convert(arguments(name, (2, 3, 5, 7), k=3), lambda t: t.requires_grad_())
    torch.library.opcheck(getattr(torch.ops.seemore_fast, name).default, (*args.values(), "cuda"))


@pytest.mark.parametrize("name", NAMES)
def test_empty_batch(name):
    found = run(name, arguments(name, (0, 3, 5, 7)), torch.randn(0, 3, 5, 7).to(DEVICE))
    assert found["result 0"].shape == (0, 3, 5, 7)
    assert not any(value.any() for value in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_autocast(name):
    args = arguments(name, (1, 3, 5, 7))
    with torch.autocast(DEVICE, torch.bfloat16):
        assert outputs(name, args, backend="cuda")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_strided_inputs(name):
    args = arguments(name, (2, 3, 6, 7), k=3)
    want = outputs(name, args, backend="cuda")[0]
    strided = convert(args, lambda t: torch.stack([t, torch.full_like(t, torch.nan)], dim=-1)[..., 0])
    assert torch.equal(outputs(name, strided, backend="cuda")[0], want)


def test_experts_that_were_not_chosen_get_zero_and_cost_nothing():
    """They may even hold NaN."""
    args = arguments("mix_experts", (1, 4, 5, 7), topk=1)
    direction = torch.randn(1, 4, 5, 7).to(DEVICE)
    (chosen,) = outputs("mix_experts", args, backend="cuda")[1].nonzero()[:, 1].tolist()
    owner = torch.tensor([0] * 2 + [1] * 4 + [2] * 8)
    for what in ("b_weight", "b_bias", "c_weight", "c_bias"):
        args[what][owner != chosen] = torch.nan
    args["a_weight"][:, owner != chosen] = torch.nan
    found = run("mix_experts", args, direction)
    for what in ("b_weight", "b_bias", "c_weight", "c_bias"):
        assert (found[what][owner != chosen] == 0).all()
        assert found[what][owner == chosen].any()
    assert (found["a_weight"][:, owner != chosen] == 0).all()
    assert all(value.isfinite().all() for value in found.values())


def test_images_of_a_batch_are_routed_one_by_one():
    args = arguments("mix_experts", (3, 3, 6, 7), topk=1)
    colour = torch.eye(3, device=DEVICE)
    args["router_weight"] = 5 * colour
    args["x"] = args["x"] + 4 * colour[:, :, None, None] - args["x"].mean((2, 3), keepdim=True)
    out, weights = outputs("mix_experts", args, backend="cuda")
    assert weights.argmax(1).tolist() == [0, 1, 2]
    for n in range(3):
        alone = {**args, "x": args["x"][n : n + 1], "k": args["k"][n : n + 1]}
        assert torch.equal(outputs("mix_experts", alone, backend="cuda")[0][0], out[n])


def test_nan_makes_its_image_nan_and_no_other():
    args = arguments("mix_experts", (2, 6, 5, 7))
    args["x"][0, 2, 3, 4] = torch.nan
    out, weights = outputs("mix_experts", args, backend="cuda")
    assert out[0].isnan().all()
    assert (weights[0].isnan() | (weights[0] == 0)).all()
    assert out[1].isfinite().all()


def test_equal_probabilities_take_the_first():
    args = arguments("mix_experts", (1, 4, 5, 5), ranks=(1, 1, 1, 1))
    args["router_weight"] = torch.ones(4, 4, device=DEVICE)
    weights = outputs("mix_experts", args, backend="cuda")[1]
    torch.testing.assert_close(weights.cpu(), torch.tensor([[0.25, 0.25, 0, 0]]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("striped_conv2d", {"k": 65}, "at most 63, not 65"),
        ("low_rank_experts", {"ranks": (241,)}, "at most 240 in all, not 241"),
        ("mix_experts", {"ranks": (240, 1)}, "at most 240 in all, not 241"),
        ("mix_experts", {"ranks": (1,) * 65}, "at most 64 experts, not 65"),
        ("layer_norm2d", {}, r"no CUDA C\+\+ kernel of layer_norm2d"),
    ],
)
def test_what_the_kernels_do_not_take(name, options, message):
    with pytest.raises(BackendError, match=message):
        call(name, convert(make_args(name, (1, 3, 5, 7), **options), lambda t: t.to(DEVICE)), backend="cuda")


def test_float64_is_refused():
    args = convert(arguments("striped_conv2d", (1, 3, 5, 7)), Tensor.double)
    with pytest.raises(BackendError, match="float64"):
        call("striped_conv2d", args, backend="cuda")


def test_none_takes_the_tables_choice_and_else_the_other(monkeypatch):
    """With tensors that say that they are on a GPU."""

    class OnGpu:
        device = torch.device("cuda")
        dtype = torch.float32
        shape = (1, 3, 1, 3)

    refusals: dict[str, str] = {}
    monkeypatch.setattr(choice, "missing", lambda name: None)

    def choose() -> str:
        return choice.choose(None, "striped_conv2d", OnGpu(), refusals.get)

    assert choose() == choice.FIRST_ON_GPU["striped_conv2d"]
    for first, other in (("cuda", "triton"), ("triton", "cuda")):
        monkeypatch.setitem(choice.FIRST_ON_GPU, "striped_conv2d", first)
        refusals.clear()
        assert choose() == first
        refusals[first] = "no"
        assert choose() == other
        refusals[other] = "no"
        assert choose() == "reference"


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_250_runs_are_bitwise_equal(name, dtype, backend, gpu):
    if backend == "triton" and (why := choice.missing("triton")) is not None:
        pytest.skip(f"triton: {why}")
    args = arguments(name, (4, 48, 64, 64), dtype)
    direction = torch.randn(4, 48, 64, 64).to(DEVICE, dtype)
    first = run(name, args, direction, backend)
    for _ in range(250):
        again = run(name, args, direction, backend)
        assert all(torch.equal(first[what], again[what]) for what in first)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("name", NAMES)
def test_cuda_graphs_capture_and_replay(name, backend, gpu):
    """Forward and backward, which so do not wait for the GPU."""
    if backend == "triton" and (why := choice.missing("triton")) is not None:
        pytest.skip(f"triton: {why}")
    args = arguments(name, (2, 36, 40, 72))
    leaves = convert(args, lambda t: t.requires_grad_())
    tensors = [t for t in leaves.values() if isinstance(t, Tensor)]
    direction = torch.randn(2, 36, 40, 72, device=DEVICE)

    def step() -> list[Tensor]:
        out = outputs(name, leaves, backend=backend)[0]
        return [out.detach(), *torch.autograd.grad(out, tensors, direction)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    with torch.no_grad():
        leaves["x"].copy_(torch.randn_like(leaves["x"]))
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, step(), strict=True))
