"""mix_experts: routing, top-k, batches of different experts, pooling."""

import pytest
import torch

from seemore_fast import ops
from seemore_fast.network.reference import MoRE


@pytest.mark.parametrize("topk", [1, 2, 3, 4, 5, 6])
def test_topk(topk, isa, check_op):
    check_op("mix_experts", (3, 8, 9, 23), ranks=[2, 3, 4, 5, 6, 7], topk=topk)


@pytest.mark.parametrize("ranks", [[1], [2, 4, 8], [1, 1, 1, 1], [16, 1]])
def test_ranks(ranks, isa, check_op):
    check_op("mix_experts", (2, 6, 5, 19), ranks=ranks, topk=1)


def as_arguments(layer):
    def joined(conv, what, dim):
        parts = [getattr(getattr(expert, conv), what) for expert in layer.experts]
        return torch.cat([p.flatten(1) if p.dim() > 1 else p for p in parts], dim=dim)

    return {
        "router_weight": layer.gate.body["2"].weight,
        "b_weight": joined("conv_1", "weight", 0),
        "b_bias": joined("conv_1", "bias", 0),
        "c_weight": joined("conv_2", "weight", 0),
        "c_bias": joined("conv_2", "bias", 0),
        "a_weight": joined("conv_3", "weight", 1),
        "a_bias": torch.stack([expert.conv_3.bias for expert in layer.experts]),
        "ranks": [expert.conv_1.out_channels for expert in layer.experts],
        "topk": layer.topk,
    }


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("topk", [1, 2])
def test_equals_the_networks_layer(backend, topk, assert_close):
    layer = MoRE(36, [2, 4, 8], topk).requires_grad_(False)
    x, k = torch.randn(2, 2, 36, 9, 17)
    out, weights = ops.mix_experts(x, k, **as_arguments(layer), backend=backend)
    layer.double()
    assert_close(out, layer(x.double(), k.double()))
    probabilities = layer.gate(x.double())
    assert_close(weights, probabilities * (weights > 0))
    assert torch.equal((weights > 0).sum(1), torch.full((2,), topk))


def test_images_of_a_batch_take_their_own_experts(isa, make):
    args = make("mix_experts", (3, 3, 8, 21), topk=1)
    args["router_weight"] = 5 * torch.eye(3)
    args["x"] += 4 * torch.eye(3)[:, :, None, None] - args["x"].mean((2, 3), keepdim=True)
    out, weights = ops.mix_experts(**args, backend="cpu")
    assert weights.argmax(1).tolist() == [0, 1, 2]
    assert torch.equal(weights > 0, torch.eye(3, dtype=torch.bool))
    for n in range(3):
        alone = {**args, "x": args["x"][n : n + 1], "k": args["k"][n : n + 1]}
        one, weight = ops.mix_experts(**alone, backend="cpu")
        assert torch.equal(one[0], out[n])
        assert torch.equal(weight[0], weights[n])


def test_equal_probabilities_take_the_first(isa, make):
    args = make("mix_experts", (1, 4, 5, 5), ranks=[2, 2, 2, 2], topk=2)
    args["router_weight"] = torch.ones(4, 4)
    _, weights = ops.mix_experts(**args, backend="cpu")
    assert weights.tolist() == [[0.25, 0.25, 0, 0]]


def test_unselected_experts_are_not_computed(isa, make):
    args = make("mix_experts", (1, 4, 5, 5), ranks=[2, 3], topk=1)
    args["router_weight"] = torch.tensor([[1.0] * 4, [-1.0] * 4])
    args["x"] = args["x"].abs()
    args["b_weight"][2:] = torch.nan
    out, _ = ops.mix_experts(**args, backend="cpu")
    assert out.isfinite().all()


def test_pooling_is_accurate_for_large_images(isa, make):
    """A float32 running sum of 200,000 values near 1000 would be off by about 1e-3 of their spread."""
    args = make("mix_experts", (1, 2, 400, 501), ranks=[1, 1])
    args["x"] = 1000 + torch.rand(1, 2, 400, 501)
    args["router_weight"] = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    _, weights = ops.mix_experts(**args, backend="cpu")
    mean = args["x"].double().mean((2, 3))
    want = (mean @ args["router_weight"].double().T).softmax(1)
    assert (weights - want).abs().max() < 1e-6


def test_nan_makes_the_whole_image_nan_and_no_other(isa, make):
    args = make("mix_experts", (2, 4, 6, 9))
    args["x"][0, 2, 3, 4] = torch.nan
    out, weights = ops.mix_experts(**args, backend="cpu")
    assert out[0].isnan().all()
    assert weights[0].isnan().any()
    assert out[1].isfinite().all()


@pytest.mark.parametrize("topk", [0, 4, -1])
def test_bad_topk_is_refused(topk, make):
    with pytest.raises(ValueError, match=r"topk must lie in 1\.\.3"):
        ops.mix_experts(**make("mix_experts", (1, 4, 5, 5), topk=topk))


@pytest.mark.parametrize("ranks", [[], [2, 0, 12], [-2, 8, 8]])
def test_bad_ranks_are_refused(ranks, make):
    args = make("mix_experts", (1, 4, 5, 5))
    with pytest.raises(ValueError, match="ranks must be integers of at least 1"):
        ops.mix_experts(**{**args, "ranks": ranks})


def test_ranks_must_match_the_matrices(make):
    args = make("mix_experts", (1, 4, 5, 5))
    with pytest.raises(ValueError, match=r"b_weight must have shape \(13, 4\)"):
        ops.mix_experts(**{**args, "ranks": [2, 4, 7]})
