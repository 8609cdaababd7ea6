"""Mixture of low-rank experts: the router; the experts themselves are in `low_rank_experts`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seemore_fast.network.parameters import ExpertsWeights, Layer, MixtureWeights, flatten, unflatten

from ._configs import launch, needed, planes, sharing, split
from .low_rank_experts import Mixture, experts
from .low_rank_experts import gradients as expert_gradients


class Gradients(NamedTuple):
    """x_offset: (N, C) float32, the router's part of x's gradient, the same at all pixels of an image."""

    x: Tensor
    x_offset: Tensor
    k: Tensor
    weights: MixtureWeights


def forward(*inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs and results (out, weights, mean) of `seemore_fast.ops.mix_experts`' operator."""
    x, k, *tensors, ranks, topk = inputs
    return mix(x, k, unflatten(MixtureWeights, tensors), ranks, topk)


def backward(grad: Tensor, weights: Tensor, mean: Tensor, *inputs) -> list[Tensor]:
    x, k, *tensors, ranks, _, needs = inputs
    found = gradients(grad, weights, mean, x, k, unflatten(MixtureWeights, tensors), ranks)
    dx = found.x.add_(found.x_offset[:, :, None, None])
    return needed([dx, found.k, *flatten(found.weights)], [x, k, *tensors], needs)


def mix(
    x: Tensor, k: Tensor, w: MixtureWeights, ranks: Sequence[int], topk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """x, k: (N, C, H, W) -> result (N, C, H, W), the router's weights (N, E) and means (N, C)."""
    x = planes(x)
    weights, mean = route(x, w.router_weight, topk)
    return experts(x, k, w.experts, mixture(weights, ranks)), weights, mean


def gradients(
    dy: Tensor,
    weights: Tensor,
    mean: Tensor,
    x: Tensor,
    k: Tensor,
    w: MixtureWeights,
    ranks: Sequence[int],
) -> Gradients:
    """From dy (N, C, H, W), forward's last two results, and its inputs without topk."""
    mix = mixture(weights, ranks)
    (n, c, height, width), e, r = x.shape, len(ranks), sum(ranks)
    found = expert_gradients(dy, x, k, w.experts, mix)
    offset, routers = x.new_empty((n, c), dtype=torch.float32), x.new_empty((n, 2, e, c), dtype=torch.float32)
    router, shift = w.router_weight.contiguous(), w.experts.a.bias.contiguous()
    args = (weights, mean, router, shift, mix.owner, found.by_image)
    padded = dict(CP=triton.next_power_of_2(c), EP=triton.next_power_of_2(e), RP=triton.next_power_of_2(r))
    constants = dict(C=c, E=e, R=r, **padded)
    launch(_route_backward, "image", lambda _: (n,), *args, offset, routers, height * width, **constants)
    drouter, da_bias = split(routers.sum(0).flatten(), (e, c), (e, c))
    matrices = ExpertsWeights(found.b, found.c, Layer(found.a_weight, da_bias))
    return Gradients(found.x, offset, found.k, MixtureWeights(drouter, matrices))


def route(x: Tensor, router_weight: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Weights (N, E) of each image's experts, 0 for those not selected, and means (N, C), both float32."""
    (n, c, h, w), e = x.shape, router_weight.shape[0]
    shares = sharing(h * w, 1024, n * c)
    partial = x.new_empty((n, shares, c), dtype=torch.float32)
    launch(_pool, "plane", lambda _: (n * c, shares), x, partial, x.stride(0), h * w, C=c)
    weights, mean = x.new_empty((n, e), dtype=torch.float32), x.new_empty((n, c), dtype=torch.float32)
    args = (partial, router_weight.contiguous(), weights, mean, shares, h * w)
    constants = dict(C=c, E=e, TOPK=topk, CP=triton.next_power_of_2(c), EP=triton.next_power_of_2(e))
    launch(_route, "image", lambda _: (n,), *args, **constants)
    return weights, mean


def mixture(weights: Tensor, ranks: Sequence[int]) -> Mixture:
    """The experts' weights (N, E) and which rank is whose, as `low_rank_experts` wants them."""
    return Mixture(weights, _owner(tuple(ranks), weights.device))


@lru_cache
def _owner(ranks: tuple[int, ...], device: torch.device) -> Tensor:
    """Each rank's expert: (sum(ranks),) int32.  Kept, for a CUDA graph cannot copy it from the host."""
    return torch.tensor([e for e, rank in enumerate(ranks) for _ in range(rank)], dtype=torch.int32).to(
        device
    )


@triton.jit
def _pool(
    x,  # [N, C, plane], images x_image apart
    partial,  # [N, programs, C] sums
    x_image,
    plane,
    C: tl.constexpr,
    TILE: tl.constexpr,
):
    image, c = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C
    share, shares = tl.program_id(1), tl.num_programs(1)
    x += image * x_image + c.to(tl.int64) * plane
    sums = tl.zeros((TILE,), tl.float32)
    for tile in range(share, tl.cdiv(plane, TILE), shares):
        pixels = tile * TILE + tl.arange(0, TILE)
        sums += tl.load(x + pixels, mask=pixels < plane, other=0.0).to(tl.float32)
    tl.store(partial + (image * shares + share) * C + c, tl.sum(sums, 0))


@triton.jit
def _probabilities(mean, router_weight, C: tl.constexpr, E: tl.constexpr, CP: tl.constexpr, EP: tl.constexpr):
    """An image's probabilities [EP] from its means [CP], and the weight [EP, CP]."""
    e, c = tl.arange(0, EP), tl.arange(0, CP)
    known = (e < E)[:, None] & (c < C)[None, :]
    matrix = tl.load(router_weight + e[:, None] * C + c[None, :], mask=known, other=0.0).to(tl.float32)
    logits = tl.where(e < E, tl.sum(matrix * mean[None, :], 1), float("-inf"))
    raised = tl.exp(logits - tl.max(logits, 0))
    return raised / tl.sum(raised, 0), matrix


@triton.jit
def _route(
    partial,  # [N, programs, C] float32
    router_weight,  # [E, C]
    weights,  # [N, E] float32
    mean,  # [N, C] float32
    programs,
    plane,
    C: tl.constexpr,
    E: tl.constexpr,
    TOPK: tl.constexpr,
    CP: tl.constexpr,
    EP: tl.constexpr,
    TILE: tl.constexpr,
):
    image, e, c = tl.program_id(0).to(tl.int64), tl.arange(0, EP), tl.arange(0, CP)
    sums = tl.zeros((CP,), tl.float32)
    for share in range(0, programs):
        sums += tl.load(partial + (image * programs + share) * C + c, mask=c < C, other=0.0)
    average = sums / plane
    probabilities, _ = _probabilities(average, router_weight, C, E, CP, EP)
    left = tl.where(e < E, probabilities, -1.0)
    selected = probabilities != probabilities  # NaN selects all, as it stands above all numbers in topk
    for _ in tl.static_range(TOPK):
        first = tl.min(tl.where(left == tl.max(left, 0), e, EP), 0)
        selected = selected | (e == first)
        left = tl.where(e == first, -1.0, left)
    tl.store(weights + image * E + e, tl.where(selected, probabilities, 0.0), mask=e < E)
    tl.store(mean + image * C + c, average, mask=c < C)


@triton.jit
def _route_backward(
    weights,  # [N, E] float32
    mean,  # [N, C] float32
    router_weight,  # [E, C]
    a_bias,  # [E, C]
    owner,  # [R] int32
    sums,  # [N, C + R] float32: of dy, and of the derivative by each rank's scale
    offset,  # [N, C] float32: what the router adds to the gradient of x at every pixel
    routers,  # [N, 2, E, C] float32: gradients of router_weight, a_bias
    plane,
    C: tl.constexpr,
    E: tl.constexpr,
    R: tl.constexpr,
    CP: tl.constexpr,
    EP: tl.constexpr,
    RP: tl.constexpr,
    TILE: tl.constexpr,
):
    image, e, c, r = tl.program_id(0).to(tl.int64), tl.arange(0, EP), tl.arange(0, CP), tl.arange(0, RP)
    known = (e < E)[:, None] & (c < C)[None, :]
    average = tl.load(mean + image * C + c, mask=c < C, other=0.0)
    probabilities, matrix = _probabilities(average, router_weight, C, E, CP, EP)
    # Forward's choice: chosen anew from sums in another order, a near tie could fall otherwise.
    share = tl.load(weights + image * E + e, mask=e < E, other=0.0)

    sums += image * (C + R)
    dshift = tl.load(sums + c, mask=c < C, other=0.0)
    by_rank = tl.load(sums + C + r, mask=r < R, other=0.0)
    expert = tl.load(owner + r, mask=r < R, other=EP)
    bias = tl.load(a_bias + e[:, None] * C + c[None, :], mask=known, other=0.0).to(tl.float32)
    dweight = tl.sum(bias * dshift[None, :], 1)
    dweight += tl.sum(tl.where(expert[None, :] == e[:, None], by_rank[None, :], 0.0), 1)

    dprobability = tl.where(share != 0, dweight, 0.0)
    dlogits = probabilities * (dprobability - tl.sum(probabilities * dprobability, 0))
    tl.store(offset + image * C + c, tl.sum(dlogits[:, None] * matrix, 0) / plane, mask=c < C)
    routers += image * (2 * E * C) + e[:, None] * C + c[None, :]
    tl.store(routers, dlogits[:, None] * average[None, :], mask=known)
    tl.store(routers + E * C, share[:, None] * dshift[None, :], mask=known)
