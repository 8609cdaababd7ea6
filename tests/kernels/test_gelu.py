"""GELU and its derivative as the kernels compute them, against float64."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
tl = triton.language


@pytest.fixture
def both(device):
    """both(x) -> GELU and GELU' of the kernels, (n,) float32 each."""
    from seemore_fast.kernels import _device as d

    @triton.jit
    def kernel(x, value, slope, n, D: tl.constexpr, TILE: tl.constexpr):
        i = tl.program_id(0) * TILE + tl.arange(0, TILE)
        z = tl.load(x + i, mask=i < n, other=0.0)
        tl.store(value + i, D.gelu(z), mask=i < n)
        tl.store(slope + i, D.gelu_gradient(z), mask=i < n)

    def run(x):
        x = x.to(device)
        value, slope = torch.empty_like(x), torch.empty_like(x)
        kernel[(triton.cdiv(len(x), 4096),)](x, value, slope, len(x), D=d, TILE=4096)
        return value.cpu(), slope.cpu()

    return run


def test_errors_are_those_that_the_docs_state(both):
    x = torch.linspace(-12, 12, 40_001)
    value, slope = both(x)
    exact = x.double().requires_grad_()
    want = torch.nn.functional.gelu(exact)
    (want_slope,) = torch.autograd.grad(want.sum(), exact)
    assert (value - want).abs().max() < 1e-6
    assert (slope - want_slope).abs().max() < 7e-7


def test_far_from_zero(both):
    value, slope = both(torch.tensor([3e38, 1e6, -1e6, -3e38, torch.inf, -torch.inf]))
    assert value[:4].tolist() == pytest.approx([3e38, 1e6, 0, 0])
    assert value[4] == torch.inf
    assert value[5] == 0
    assert slope[:4].tolist() == [1, 1, 0, 0]


def test_nan_stays(both):
    value, slope = both(torch.tensor([torch.nan]))
    assert value.isnan().all()
    assert slope.isnan().all()
