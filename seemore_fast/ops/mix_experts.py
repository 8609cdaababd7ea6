"""Mixture of low-rank experts: pool, softmax, top-k, weighted sum of experts plus x (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seemore_fast.ops import _cpu
from seemore_fast.ops._common import Backend, cast, check_all, check_image, check_like, choose
from seemore_fast.ops._register import register
from seemore_fast.ops.low_rank_experts import reference as expert


def mix_experts(
    x: Tensor,
    k: Tensor,
    router_weight: Tensor,
    b_weight: Tensor,
    b_bias: Tensor,
    c_weight: Tensor,
    c_bias: Tensor,
    a_weight: Tensor,
    a_bias: Tensor,
    ranks: Sequence[int],
    topk: int,
    *,
    backend: Backend = None,
) -> tuple[Tensor, Tensor]:
    """``x + sum_e w_e expert_e(x, k)`` over each image's top-k experts, which the mean of x selects.

    x, k: (N, C, H, W), floating; router_weight: (E, C).  The experts' matrices are concatenated along their
    ranks, R = sum(ranks) in all: b_weight, c_weight: (R, C); b_bias, c_bias: (R,); a_weight: (C, R);
    a_bias: (E, C), one row per expert.  ranks: E integers >= 1; topk: 1..E.

    Returns (out, weights): out (N, C, H, W); weights (N, E) in at least float32, softmax probabilities (not
    renormalised) of the selected experts, 0 for the others; they carry no gradient.

    Raises ValueError (shape, device, ranks, topk), TypeError (dtype) or BackendError; see
    :mod:`seemore_fast.ops`.
    """
    check_image("x", x)
    check_like(x, "k", k, x.shape)
    check_routing(ranks, topk)
    tensors = (x, k, router_weight, b_weight, b_bias, c_weight, c_bias, a_weight, a_bias)
    check_all(x, tensors[2:], shapes(x.shape[1], ranks))
    chosen = choose(backend, "mix_experts", *tensors)
    if chosen == "reference":
        out, weights, _ = reference(*tensors, ranks, topk)
    else:
        out, weights, _ = _op(*cast(chosen, [x, k], tensors[2:]), ranks, topk, chosen)
    return out, weights.detach()


def check_routing(ranks: Sequence[int], topk: int) -> None:
    """Raises ValueError for ranks that are no ranks and for a ``topk`` outside 1..E."""
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks must be integers of at least 1, one per expert, got {list(ranks)}")
    if not 1 <= topk <= len(ranks):
        raise ValueError(f"topk must lie in 1..{len(ranks)}, the number of experts, got {topk!r}")


def shapes(c: int, ranks: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Of the weights, by name, in order."""
    experts, rank = len(ranks), sum(ranks)
    return {
        "router_weight": (experts, c),
        "b_weight": (rank, c),
        "b_bias": (rank,),
        "c_weight": (rank, c),
        "c_bias": (rank,),
        "a_weight": (c, rank),
        "a_bias": (experts, c),
    }


def reference(
    x: Tensor,
    k: Tensor,
    router_weight: Tensor,
    b_weight: Tensor,
    b_bias: Tensor,
    c_weight: Tensor,
    c_bias: Tensor,
    a_weight: Tensor,
    a_bias: Tensor,
    ranks: Sequence[int],
    topk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula in plain PyTorch: out, weights, and the mean of x (N, C).

    All experts are computed, so the unselected get zero gradients.
    """
    wide = routing_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        mean = x.mean((2, 3), dtype=wide)
        logits = F.linear(mean, router_weight.to(wide))
        probabilities = logits.softmax(dim=1)
    top, chosen = probabilities.topk(topk, dim=1)
    weights = torch.zeros_like(probabilities).scatter(1, chosen, top)
    out, first = x, 0
    for e, rank in enumerate(ranks):
        of_expert = slice(first, first + rank)
        first += rank
        value = expert(
            x,
            k,
            b_weight[of_expert],
            b_bias[of_expert],
            c_weight[of_expert],
            c_bias[of_expert],
            a_weight[:, of_expert],
            a_bias[e],
        )[0]
        out = out + weights[:, e, None, None, None].to(x.dtype) * value
    return out, weights, mean


def routing_dtype(x: Tensor) -> torch.dtype:
    """A top-1 probability is about 0.4: in low precision a near tie would flip."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def empty_routing(x: Tensor, router_weight: Tensor) -> tuple[Tensor, Tensor]:
    """What the backward needs: the weights (N, E) and the mean of x (N, C)."""
    n, (experts, channels), dtype = x.shape[0], router_weight.shape, routing_dtype(x)
    return x.new_empty((n, experts), dtype=dtype), x.new_empty((n, channels), dtype=dtype)


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    *tensors, ranks, topk = inputs
    saved = empty_routing(tensors[0], tensors[2])
    return _cpu.forward("mix_experts", tensors, saved, ranks=ranks, topk=topk)


def _backward(grad: Tensor, weights: Tensor, mean: Tensor, *inputs: Any) -> list[Tensor]:
    *tensors, ranks, topk, needs = inputs
    return _cpu.backward("mix_experts", grad, tensors, needs, (weights, mean), ranks=ranks, topk=topk)


_op = register(
    "mix_experts(Tensor x, Tensor k, Tensor router_weight, Tensor b_weight, Tensor b_bias, Tensor c_weight,"
    " Tensor c_bias, Tensor a_weight, Tensor a_bias, int[] ranks, int topk)",
    reference=reference,
    saved=("weights", "mean"),
    empty_saved=lambda x, k, router_weight, *rest: empty_routing(x, router_weight),
    forward=_forward,
    backward=_backward,
)
