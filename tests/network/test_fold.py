"""The engine's algebra: networks computed from folded weights equal the reference in float64 to 1e-12."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seemore_fast.network import fold
from seemore_fast.network.parameters import ExpertsWeights, FFNWeights, Layer, RMEWeights, SMEWeights
from seemore_fast.network.reference import LN_EPS, ResidualBlock, RMEBlock, SeemoRe
from tests.support import golden

CONFIGS = {
    "as_t": {"num_experts": 3, "lr_space": "exp", "topk": 1, "use_shuffle": True, "recursive": 2},
    "as_l": {"num_experts": 3, "lr_space": "exp", "topk": 1, "use_shuffle": False, "recursive": 1},
    "all_of_many": {"num_experts": 6, "lr_space": "linear", "topk": 6, "recursive": 2},
    "two_of_four": {"num_experts": 4, "lr_space": "double", "topk": 2, "use_shuffle": True, "recursive": 1},
    "one_expert": {"num_experts": 1, "topk": 1, "recursive": 1, "global_kernel_size": 1},
    "wide_stripe": {"num_experts": 2, "topk": 2, "recursive": 1, "global_kernel_size": 31, "in_chans": 1},
}


def network(**config) -> SeemoRe:
    config = {"scale": 2, "num_layers": 2, "embedding_dim": 8, **config}
    return golden.fill(SeemoRe(**config), seed=7).double().eval()


@pytest.fixture(params=CONFIGS)
def net(request: pytest.FixtureRequest) -> SeemoRe:
    return network(**CONFIGS[request.param])


def features(height: int = 17, width: int = 21, images: int = 2) -> Tensor:
    """(N, 8, H, W) with a different mean in each channel and image, so that images are routed apart."""
    x = torch.randn(images, 8, height, width, dtype=torch.float64)
    return x + 3 * torch.randn(images, 8, 1, 1, dtype=torch.float64)


def equal(got: Tensor, want: Tensor) -> None:
    assert got.dtype == want.dtype == torch.float64
    error = golden.relative_l2(got, want.detach())
    assert error <= 1e-12, f"relative L2 error {error:.3g}"


# What a native engine computes, in PyTorch and float64.


def matrix(layer: Layer, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)


def depthwise(layer: Layer, x: Tensor, **options) -> Tensor:
    return F.conv2d(x, layer.weight[:, None], layer.bias, groups=x.shape[1], **options)


def stripes(weights: fold.FoldedStripes, x: Tensor) -> Tensor:
    (h, h_bias), (v, v_bias) = weights
    k, groups = h.shape[1], x.shape[1]
    x = F.conv2d(x, h[:, None, None], h_bias, padding=(0, k // 2), groups=groups)
    return F.conv2d(x, v[:, None, :, None], v_bias, padding=(k // 2, 0), groups=groups)


def statistics(x: Tensor) -> Tensor:
    """LayerNorm without its affine part."""
    return (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + LN_EPS).sqrt()


def ffn(w: fold.FoldedFFN, x: Tensor) -> Tensor:
    n = statistics(x)
    gate = depthwise(w.gate, F.gelu(matrix(w.g, n)), padding=1)
    return x + F.gelu(matrix(w.out, F.gelu(matrix(w.a, n)) * gate))


def sme(w: fold.FoldedSME, x: Tensor) -> Tensor:
    n = statistics(x)
    q, v = F.gelu(matrix(w.to_q, n)), F.gelu(matrix(w.to_v, n))
    return x + matrix(w.proj, stripes(w.stripes, q) * v)


def probabilities(w: fold.FoldedRME, mixed: Tensor) -> Tensor:
    return (mixed.mean((2, 3)) @ w.mixture.router.T).softmax(1)


def rme(w: fold.FoldedRME, x: Tensor, ranks: list[int], topk: int, recursive: int) -> Tensor:
    n = statistics(x) * w.norm.weight[:, None, None] + w.norm.bias[:, None, None]
    t = F.gelu(F.conv2d(n, *w.conv, padding=1))
    mixed, k = F.gelu(stripes(w.stripes, matrix(w.to_x, t))), matrix(w.to_k, t)
    # All that crosses the pooling barrier:
    y, b, c = x + matrix(w.proj, mixed), matrix(w.mixture.b, mixed), matrix(w.mixture.c, k)
    low = k
    for _ in range(recursive):
        low = F.gelu(depthwise(w.calibrate.aggregate, low, stride=4))
    low = matrix(w.calibrate.proj, depthwise(w.calibrate.conv, low, padding=1))
    c = c + F.interpolate(low, size=x.shape[2:], mode="bilinear", align_corners=False)
    out = []
    for image, probability in enumerate(probabilities(w, mixed)):
        result = y[image : image + 1]
        for e in probability.topk(topk).indices.tolist():
            mine = slice(sum(ranks[:e]), sum(ranks[: e + 1]))
            product = b[image : image + 1, mine] * c[image : image + 1, mine]
            own = Layer(w.mixture.out.weight[:, mine], w.mixture.out.bias[e])
            result = result + probability[e] * matrix(own, product)
        out.append(result)
    return torch.cat(out)


def fold_rme(block: ResidualBlock) -> fold.FoldedRME:
    return fold.fold_rme(fold.exact(RMEWeights.of(block)), block.block.use_shuffle)


def rme_of(net: SeemoRe, weights: fold.FoldedRME, x: Tensor) -> Tensor:
    ranks = fold.fold_network(net)["ranks"]
    return rme(weights, x, ranks, net.config["topk"], net.config["recursive"])


def test_norm_into_matrix():
    x = statistics(features())
    weight, bias = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    gamma, beta = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    folded, folded_bias = fold.norm_into_matrix(Layer(weight, bias), Layer(gamma, beta))
    want = F.conv2d(x * gamma[:, None, None] + beta[:, None, None], weight[:, :, None, None], bias)
    equal(F.conv2d(x, folded[:, :, None, None], folded_bias), want)


def test_shuffle_rows():
    """out[2i + g] = in[g * C + i], of matrices and of vectors."""
    rows = torch.arange(12.0)
    assert fold.shuffle_rows(rows).tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert torch.equal(
        fold.shuffle_rows(rows[:, None].expand(12, 5)), fold.shuffle_rows(rows)[:, None].expand(12, 5)
    )


def test_experts_side_by_side(net):
    """Each expert's part of the sum is the expert itself."""
    experts = net.body[0].local_block.block.moe_layer.experts
    side = fold.exact(ExpertsWeights.of(experts))
    x, k = features(), features()
    b, c = (
        F.conv2d(t, layer.weight[:, :, None, None], layer.bias) for t, layer in ((x, side.b), (k, side.c))
    )
    start = 0
    for e, expert in enumerate(experts):
        stop = start + expert.conv_1.out_channels
        product = b[:, start:stop] * c[:, start:stop]
        equal(F.conv2d(product, side.a.weight[:, start:stop, None, None], side.a.bias[e]), expert(x, k))
        start = stop
    assert side.a.weight.shape == (8, start)


def test_fold_ffn(net):
    x = features()
    for block in (net.body[0].local_block, net.body[1].global_block):
        norm, weights = fold.exact(Layer.of(block.norm_2)), fold.exact(FFNWeights.of(block.ffn))
        equal(ffn(fold.fold_ffn(norm, weights), x), x + block.ffn(block.norm_2(x)))


def test_fold_sme(net):
    x, block = features(), net.body[0].global_block
    equal(sme(fold.fold_sme(fold.exact(SMEWeights.of(block))), x), x + block.block(block.norm_1(x)))


@pytest.mark.parametrize("size", [(16, 16), (16, 33), (37, 17), (32, 48)])
def test_fold_rme_around_the_pooling_barrier(net, size):
    x, block = features(*size), net.body[1].local_block
    equal(rme_of(net, fold_rme(block), x), x + block.block(block.norm_1(x)))


def test_the_router_sees_the_same_features(net):
    """Equal outputs leave a router of one expert, or of all, half tested: compare probabilities, too."""
    block: RMEBlock = net.body[0].local_block.block
    x = features()
    weights = fold_rme(net.body[0].local_block)
    equal(probabilities(weights, x), block.moe_layer.gate(x))


def test_fold_network(net):
    """Head, groups in their order, and tail."""
    folded = fold.fold_network(net)
    config = net.config
    x = torch.rand(2, config["in_chans"], 17, 22, dtype=torch.float64)
    ends: fold.FoldedEnds = folded["ends"]
    mean = ends.mean[:, None, None]
    y = skip = F.conv2d((x - mean) * folded["img_range"], *ends.head, padding=1)
    for group in folded["groups"]:
        y = rme(group.rme, y, folded["ranks"], folded["topk"], folded["recursive"])
        y = ffn(group.rme.ffn, y)
        y = ffn(group.sme.ffn, sme(group.sme, y))
    y = statistics(y) * ends.norm.weight[:, None, None] + ends.norm.bias[:, None, None]
    y = F.conv2d(y, *ends.conv_2, padding=1) + skip
    y = F.pixel_shuffle(F.conv2d(y, *ends.upsampler, padding=1), folded["scale"])
    with torch.no_grad():
        equal(y / folded["img_range"] + mean, net(x))


def test_folding_leaves_the_network_and_its_dtype_alone():
    net = network().float()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    folded = fold.fold_network(net)
    out = folded["groups"][0].rme.mixture.out.weight
    assert out.dtype == torch.float64
    assert not out.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
