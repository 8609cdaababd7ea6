"""striped_conv2d: kernel sizes, padding, tile borders."""

import pytest
import torch

from seemore_fast import ops
from seemore_fast.network.reference import StripedConv2d


@pytest.mark.parametrize("k", [1, 3, 5, 11, 23])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (4, 3), (31, 40)])
def test_kernel_sizes(k, gelu, size, isa, check_op):
    check_op("striped_conv2d", (2, 3, *size), k=k, gelu=gelu)


@pytest.mark.parametrize(
    "size", [(127, 5), (128, 5), (129, 5), (257, 5), (3, 255), (3, 256), (3, 257), (3, 513)]
)
def test_borders_of_bands_and_strips(size, isa, check_op):
    check_op("striped_conv2d", (1, 2, *size))


def test_equals_the_networks_layer(isa, assert_close):
    layer = StripedConv2d(6, 11).requires_grad_(False)
    x = torch.randn(2, 6, 20, 30)
    h, v = layer.conv
    got = ops.striped_conv2d(x, h.weight, h.bias, v.weight, v.bias)
    assert_close(got, layer.double()(x.double()))


def test_padding_between_the_stripes_is_zero_not_the_bias(isa):
    """Outside the image the first result counts as 0, though its bias is 1 there too."""
    zero, one = torch.zeros(1, 1, 1, 3), torch.ones(1)
    x = torch.zeros(1, 1, 4, 20)
    got = ops.striped_conv2d(x, zero, one, torch.ones(1, 1, 3, 1), torch.zeros(1), backend="cpu")
    assert got[0, 0, :, 7].tolist() == [2, 3, 3, 2]


def test_even_kernels_are_refused():
    w = torch.zeros(2, 1, 1, 4)
    with pytest.raises(ValueError, match=r"weight_h .* k odd"):
        ops.striped_conv2d(torch.zeros(1, 2, 5, 5), w, torch.zeros(2), w.mT, torch.zeros(2))


def test_kernels_of_different_length_are_refused():
    h, v = torch.zeros(2, 1, 1, 3), torch.zeros(2, 1, 5, 1)
    with pytest.raises(ValueError, match=r"weight_v must have shape \(2, 1, 3, 1\)"):
        ops.striped_conv2d(torch.zeros(1, 2, 5, 5), h, torch.zeros(2), v, torch.zeros(2))
