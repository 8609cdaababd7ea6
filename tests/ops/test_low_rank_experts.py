"""low_rank_experts: every rank, several experts in one, the network's layer."""

import pytest
import torch

from seemore_fast import ops
from seemore_fast.network.reference import LowRankExpert


def matrices(expert):
    c1, c2, c3 = expert.conv_1, expert.conv_2, expert.conv_3
    return [p.flatten(1) if p.dim() > 1 else p for c in (c1, c2, c3) for p in (c.weight, c.bias)]


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 6, 7, 8, 14, 33])
def test_ranks(rank, isa, check_op):
    check_op("low_rank_experts", (2, 6, 7, 21), ranks=[rank])


def test_equals_the_networks_layer(isa, assert_close):
    expert = LowRankExpert(36, 4).requires_grad_(False)
    x, k = torch.randn(2, 2, 36, 9, 17)
    got = ops.low_rank_experts(x, k, *matrices(expert))
    assert_close(got, expert.double()(x.double(), k.double()))


def test_concatenated_experts_give_their_sum(isa, assert_close):
    one, two = (LowRankExpert(8, rank).requires_grad_(False) for rank in (2, 3))
    x, k = torch.randn(2, 1, 8, 6, 11)
    joined = [
        a + b if i == 5 else torch.cat([a, b], dim=1 if i == 4 else 0)
        for i, (a, b) in enumerate(zip(matrices(one), matrices(two), strict=True))
    ]
    got = ops.low_rank_experts(x, k, *joined)
    assert_close(got, one.double()(x.double(), k.double()) + two.double()(x.double(), k.double()))


def test_rank_zero_is_refused(make):
    args = make("low_rank_experts", (1, 4, 3, 3))
    with pytest.raises(ValueError, match=r"b_weight must have shape \(R, C\) with R >= 1"):
        ops.low_rank_experts(**{**args, "b_weight": torch.zeros(0, 4)})
