"""layer_norm2d: accuracy far from zero, eps, the network's layer."""

import pytest
import torch

from seemore_fast import ops
from seemore_fast.network.reference import LayerNorm2d


def test_equals_the_networks_layer(isa, assert_close):
    layer = LayerNorm2d(36).requires_grad_(False)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 36, 9, 17)
    assert_close(ops.layer_norm2d(x, layer.weight, layer.bias), layer.double()(x.double()))


def test_large_mean_does_not_cancel(isa):
    """mean 1000, deviation 1: the one-pass variance would have no correct digit."""
    args = 1000 + torch.randn(1, 48, 8, 33), torch.ones(48), torch.zeros(48)
    want = ops.layer_norm2d(*(t.double() for t in args))
    error = (ops.layer_norm2d(*args, backend="cpu") - want).norm()
    assert error <= 2 * (ops.layer_norm2d(*args, backend="reference") - want).norm()
    assert error <= 1e-3 * want.norm()


def test_constant_pixels_give_the_bias(isa):
    x = torch.full((1, 4, 3, 5), 0.25)
    bias = torch.tensor([1.0, -2.0, 3.0, 0.0])
    got = ops.layer_norm2d(x, torch.ones(4), bias, backend="cpu")
    assert torch.equal(got, bias[None, :, None, None].expand_as(x))


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5])
def test_eps(eps, isa, assert_close):
    x, weight, bias = torch.randn(1, 8, 4, 9), torch.randn(8), torch.randn(8)
    got = ops.layer_norm2d(x, weight, bias, eps, backend="cpu")
    assert_close(got, ops.layer_norm2d(x.double(), weight.double(), bias.double(), eps))


@pytest.mark.parametrize("eps", [-1e-6, float("nan")])
def test_bad_eps_is_refused(eps):
    with pytest.raises(ValueError, match="eps must be at least 0"):
        ops.layer_norm2d(torch.zeros(1, 2, 3, 3), torch.ones(2), torch.zeros(2), eps)


def test_half_precision_formula_keeps_wide_statistics():
    x = torch.randn(1, 8, 4, 4) * 300
    got = ops.layer_norm2d(x.half(), torch.ones(8).half(), torch.zeros(8).half())
    want = ops.layer_norm2d(x, torch.ones(8), torch.zeros(8))
    assert (got.float() - want).abs().max() < 5e-3
