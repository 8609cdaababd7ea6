"""Mixture of low-rank experts: pool, softmax, top-k, weighted sum of experts plus x (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seemore_fast import _native
from seemore_fast.ops._common import Backend, check_image, check_like, register, use_native
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
    a_bias: (E, C), one row per expert.  All are of one dtype and device.  ranks: E integers >= 1; topk: 1..E.

    Returns (out, weights): out (N, C, H, W); weights (N, E) in at least float32, softmax probabilities (not
    renormalised) of the selected experts, 0 for the others.

    Raises ValueError (shape, device, ranks, topk), TypeError (dtype) or BackendError; see
    :mod:`seemore_fast.ops`.
    """
    check_image("x", x)
    check_like(x, "k", k, x.shape)
    channels, experts, rank = x.shape[1], len(ranks), sum(ranks)
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks must be integers of at least 1, one per expert, got {list(ranks)}")
    if not 1 <= topk <= experts:
        raise ValueError(f"topk must lie in 1..{experts}, the number of experts, got {topk!r}")
    check_like(x, "router_weight", router_weight, (experts, channels))
    check_like(x, "b_weight", b_weight, (rank, channels))
    check_like(x, "b_bias", b_bias, (rank,))
    check_like(x, "c_weight", c_weight, (rank, channels))
    check_like(x, "c_bias", c_bias, (rank,))
    check_like(x, "a_weight", a_weight, (channels, rank))
    check_like(x, "a_bias", a_bias, (experts, channels))
    tensors = (x, k, router_weight, b_weight, b_bias, c_weight, c_bias, a_weight, a_bias)
    if use_native(backend, *tensors):
        return _op(*tensors, ranks, topk)
    return reference(*tensors, ranks, topk)


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
) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch; all experts are computed, so the unselected get zero gradients."""
    wide = _routing_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        logits = F.linear(x.mean((2, 3), dtype=wide), router_weight.to(wide))
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
        )
        out = out + weights[:, e, None, None, None].to(x.dtype) * value
    return out, weights


def _routing_dtype(x: Tensor) -> torch.dtype:
    """A top-1 probability is about 0.4: in low precision a near tie would flip."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _cpu(x: Tensor, k: Tensor, router_weight: Tensor, *rest) -> tuple[Tensor, Tensor]:
    *matrices, ranks, topk = rest
    inputs = [t.contiguous() for t in (x, k, router_weight, *matrices)]
    out = x.new_empty(x.shape)
    weights = x.new_empty((x.shape[0], len(ranks)))
    _native.require().mix_experts(
        *(t.data_ptr() for t in inputs),
        ranks,
        out.data_ptr(),
        weights.data_ptr(),
        x.shape,
        topk,
        torch.get_num_threads(),
    )
    return out, weights


def _fake(x: Tensor, k: Tensor, router_weight: Tensor, *rest) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((x.shape[0], router_weight.shape[0]))


_op = register(
    "mix_experts(Tensor x, Tensor k, Tensor router_weight, Tensor b_weight, Tensor b_bias, Tensor c_weight,"
    " Tensor c_bias, Tensor a_weight, Tensor a_bias, int[] ranks, int topk) -> (Tensor, Tensor)",
    _cpu,
    _fake,
)
