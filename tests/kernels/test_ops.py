"""Every op's Triton kernels, forward and backward, against the formula in float64."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor

from seemore_fast.network.accuracy import relative_l2
from seemore_fast.ops.low_rank_experts import reference as expert_formula
from tests.support.operators import CASES, RANKS, Case, normal

BLOCKS = ("rme", "sme")

CHANNELS = dict.fromkeys(("rme", "sme", "calibrate", "striped_conv2d", "striped_attention"), 6)


def run(case: Case, inputs: list, grad: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Forward's results and all gradients, from the kernels."""
    module = import_module(f"seemore_fast.kernels.{case.name}")
    found = module.forward(*inputs)
    gradients = module.backward(grad, *found[1:], *inputs, [True] * count(inputs))
    given = [*inputs[: count(inputs)], grad]
    memory = [t.untyped_storage().data_ptr() for t in (*found, *gradients, *given)]
    assert len(set(memory)) == len(memory), "torch's operators may not return memory that they share"
    return list(found), gradients


def formula(case: Case, inputs: list, grad: Tensor, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """The same by PyTorch in this dtype."""
    tensors = [t.detach().to(dtype).requires_grad_() for t in inputs[: count(inputs)]]
    found = import_module(f"seemore_fast.ops.{case.name}").reference(*tensors, *inputs[len(tensors) :])
    gradients = torch.autograd.grad(found[0], tensors, grad.to(dtype), materialize_grads=True)
    return [t.detach() for t in found], list(gradients)


def count(inputs: list) -> int:
    return sum(isinstance(value, Tensor) for value in inputs)


def small(case: Case) -> tuple[int, int]:
    """For the interpreter: no multiples of a tile, of 4 or of 16; aggregating twice takes sides of 16."""
    least = 4 ** case.options.get("recursive", 0)
    return (least + 1, least + 5) if least > 1 else (9, 13)


def arguments(
    case: Case, device: str, dtype: torch.dtype, c: int = 0, n: int = 2, size: tuple[int, ...] = ()
):
    c, size = c or CHANNELS.get(case.name, 20), size or small(case)
    inputs = case.inputs((n, c, *size), dtype, torch.float32, normal)
    inputs = [value.to(device) if isinstance(value, Tensor) else value for value in inputs]
    return inputs, torch.randn(n, c, *size).to(device, dtype)


def assert_close(found: tuple, want: tuple, limits: tuple[float, float]) -> None:
    for got, exact, limit in zip(found, want, limits, strict=True):
        for i, (a, b) in enumerate(zip(got, exact, strict=True)):
            assert a.shape == b.shape, i
            assert relative_l2(a, b) <= limit, i


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32(case, device):
    inputs, grad = arguments(case, device, torch.float32, n=1 if case.name == "rme" else 2)
    assert_close(run(case, inputs, grad), formula(case, inputs, grad, torch.float64), (2e-6, 1e-5))


@pytest.mark.full
@pytest.mark.parametrize("c", [36, 48, 64, 5])
@pytest.mark.parametrize("name", ["low_rank_experts", "gated_ffn"])
def test_widths(name, c, device):
    (case,) = (case for case in CASES if case.name == name)
    inputs, grad = arguments(case, device, torch.float32, c, n=1, size=(3, 9))
    assert_close(run(case, inputs, grad), formula(case, inputs, grad, torch.float64), (2e-6, 1e-5))


@pytest.mark.parametrize("size", [(1, 1), (1, 67), (67, 1)])
@pytest.mark.parametrize(
    "name", ["layer_norm2d", "low_rank_experts", "mix_experts", "striped_conv2d", "gated_ffn"]
)
def test_sizes(name, size, device):
    case = next(case for case in CASES if case.name == name)
    inputs, grad = arguments(case, device, torch.float32, 3, size=size)
    assert_close(run(case, inputs, grad), formula(case, inputs, grad, torch.float64), (2e-6, 1e-5))


def low_precision(case: Case, device: str, dtype: torch.dtype) -> None:
    """Errors of results at most twice, of gradients three times those of PyTorch in the same dtype."""
    inputs, grad = arguments(case, device, dtype, n=1)
    got, want = run(case, inputs, grad), formula(case, inputs, grad, torch.float64)
    plain = formula(case, inputs, grad, dtype)
    unit = torch.finfo(dtype).eps
    for kind, factor in ((0, 2), (1, 3)):
        for i, (a, p, b) in enumerate(zip(got[kind], plain[kind], want[kind], strict=True)):
            assert relative_l2(a, b) <= factor * max(relative_l2(p, b), unit), (kind, i)


@pytest.mark.full
@pytest.mark.parametrize("case", [c for c in CASES if c.name not in BLOCKS], ids=str)
def test_float16(case, device):
    low_precision(case, device, torch.float16)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bfloat16(case, gpu):
    low_precision(case, gpu, torch.bfloat16)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in BLOCKS], ids=str)
def test_float16_blocks(case, gpu):
    low_precision(case, gpu, torch.float16)


def test_only_the_gradients_asked_for(device):
    case = CASES[0]
    inputs, grad = arguments(case, device, torch.float32, 6)
    module = import_module(f"seemore_fast.kernels.{case.name}")
    every = module.backward(grad, *inputs, [True, True, True])
    (bias,) = module.backward(grad, *inputs, [False, False, True])
    assert torch.equal(bias, every[2])


def test_pixels_beyond_the_image_give_no_nan_where_eps_is_0(device):
    case = CASES[0]
    inputs, grad = arguments(case, device, torch.float32, 6, size=(3, 5))
    inputs[-1] = 0.0
    assert_close(run(case, inputs, grad), formula(case, inputs, grad, torch.float64), (2e-6, 1e-5))


def test_backward_takes_forwards_choice_of_experts(device):
    """Equal probabilities: the weights say which was chosen, here another than backward would choose."""
    from seemore_fast.kernels import mix_experts

    case = next(case for case in CASES if case.name == "mix_experts")
    inputs, grad = arguments(case, device, torch.float32, 4, n=1, size=(5, 7))
    inputs[2] = torch.ones_like(inputs[2])
    mean, weights = inputs[0].mean((2, 3)), torch.tensor([[0, 0, 1 / 3]], device=device)
    needs = [True] * count(inputs)
    _, _, drouter, *_ = mix_experts.backward(grad, weights, mean, *inputs, needs)
    last = [t.detach().requires_grad_() for t in inputs[: count(inputs)]]
    logits = torch.nn.functional.linear(last[0].mean((2, 3)), last[2])
    out = last[0] + logits.softmax(1)[:, 2, None, None, None] * _third_expert(*last)
    want = torch.autograd.grad(out, last[2], grad)[0]
    assert relative_l2(drouter, want.double()) <= 1e-5


def _third_expert(x: Tensor, k: Tensor, _: Tensor, b, b_bias, c, c_bias, a, a_bias) -> Tensor:
    first = sum(RANKS[:2])
    return expert_formula(
        x, k, b[first:], b_bias[first:], c[first:], c_bias[first:], a[:, first:], a_bias[2]
    )[0]


def test_experts_that_were_not_selected_get_zero(device):
    case = next(case for case in CASES if case.name == "mix_experts")
    inputs, grad = arguments(case, device, torch.float32, 8, n=1, size=(5, 7))
    (_, weights, _), gradients = run(case, inputs, grad)
    first = 0
    for e, rank in enumerate(RANKS):
        rows = gradients[3][first : first + rank]
        assert bool(rows.any()) == bool(weights[0, e] > 0)
        first += rank


def test_images_of_a_batch_take_their_own_experts(device):
    case = next(case for case in CASES if case.name == "mix_experts")
    inputs, grad = arguments(case, device, torch.float32, 3, n=3, size=(6, 7))
    inputs[2] = 5 * torch.eye(3, device=device)
    inputs[0] += 4 * torch.eye(3, device=device)[:, :, None, None] - inputs[0].mean((2, 3), keepdim=True)
    (out, weights, _), _ = run(case, inputs, grad)
    assert weights.argmax(1).tolist() == [0, 1, 2]
    for n in range(3):
        alone = [inputs[0][n : n + 1], inputs[1][n : n + 1], *inputs[2:]]
        assert torch.equal(run(case, alone, grad[n : n + 1])[0][0][0], out[n])


def test_nan_makes_its_image_nan_and_no_other(device):
    case = next(case for case in CASES if case.name == "mix_experts")
    inputs, grad = arguments(case, device, torch.float32, 6, size=(5, 7))
    inputs[0][0, 2, 3, 4] = torch.nan
    (out, weights, _), _ = run(case, inputs, grad)
    assert out[0].isnan().all()
    assert weights[0].isnan().all()
    assert out[1].isfinite().all()


def test_equal_probabilities_take_the_first(device):
    from seemore_fast.kernels import mix_experts

    weights, _ = mix_experts.route(torch.randn(1, 4, 5, 5, device=device), torch.ones(4, 4, device=device), 2)
    assert weights.tolist() == [[0.25, 0.25, 0, 0]]


def test_a_coarse_map_of_more_columns_than_a_program_adds_up(device):
    case = next(c for c in CASES if c.name == "calibrate" and c.options["recursive"] == 1)
    # Several channels: of one, a gradient is one number, which may cancel to nothing as PyTorch's does.
    inputs, grad = arguments(case, device, torch.float32, 4, n=1, size=(5, 141))
    want = formula(case, inputs, grad, torch.float64)
    assert_close(run(case, inputs, grad), want, (2e-6, 1e-5))


@pytest.mark.parametrize("shape", [(1, 8, 16384, 8192), (8192, 48, 16, 16)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_grids_fit_cuda(case, shape, device, monkeypatch):
    """Up to 65535 along the second and third axis, for images of 134 megapixels and for many images."""
    from seemore_fast.kernels import _configs

    grids = []
    monkeypatch.setattr(_configs, "run", lambda kernel, grid, config, *rest: grids.append(grid(config)))
    inputs = case.inputs(
        shape, torch.float16, torch.float32, lambda s, d: torch.empty(s, dtype=d, device="meta")
    )
    module = import_module(f"seemore_fast.kernels.{case.name}")
    out, *saved = module.forward(*inputs)
    module.backward(out, *saved, *inputs, [True] * count(inputs))
    assert grids
    assert all(grid[0] < 2**31 and max(grid[1:], default=1) <= 65535 for grid in grids)


def test_the_public_function_is_differentiable(device, monkeypatch):
    from seemore_fast import ops

    inputs, grad = arguments(CASES[0], device, torch.float32, 6)
    leaves = [t.requires_grad_() for t in inputs[:3]]
    out = ops.layer_norm2d(*leaves, backend="triton")
    want = formula(CASES[0], inputs, grad, torch.float64)
    assert_close(([out.detach()], torch.autograd.grad(out, leaves, grad)), want, (2e-6, 1e-5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_250_runs_are_bitwise_equal(case, dtype, gpu):
    inputs, grad = arguments(case, gpu, dtype, 48, n=4, size=(64, 64))
    first = run(case, inputs, grad)
    for _ in range(250 if case.name not in BLOCKS else 50):
        again = run(case, inputs, grad)
        assert all(
            torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True)
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cuda_graphs_capture_and_replay(case, gpu):
    inputs, grad = arguments(case, gpu, torch.float16, 36, size=(32, 48))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run(case, inputs, grad)  # compiles, and makes what a captured call may not copy from the host
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(case, inputs, grad)
    inputs[0].copy_(torch.randn_like(inputs[0]))
    for part in found:
        for tensor in part:
            tensor.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    want = run(case, inputs, grad)
    assert all(torch.equal(a, b) for x, y in zip(found, want, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("name", ["narrow", "wide", "broad", "short", "long"])
def test_configurations_agree(name, gpu):
    from seemore_fast.kernels import _configs

    for case in CASES:
        with _configs.using(name):  # float32 has one configuration of most
            low_precision(case, gpu, torch.float16)
