"""Mixture of low-rank experts: pool, softmax, top-k, weighted sum of experts plus x (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seemore_fast.backends.choice import Backend
from seemore_fast.network.parameters import MixtureWeights, unflatten
from seemore_fast.ops._operator import Operator, routing_dtype
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
    given = (router_weight, b_weight, b_bias, c_weight, c_bias, a_weight, a_bias)
    out, weights, _ = _run([x, k], given, ranks, topk, backend=backend)
    return out, weights.detach()


def reference(x: Tensor, k: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The formula in plain PyTorch: out, weights, and the mean of x (N, C).

    All experts are computed, so the unselected get zero gradients.
    """
    *tensors, ranks, topk = rest
    router_weight, (b, c, a) = unflatten(MixtureWeights, tensors)
    wide = routing_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        mean = x.mean((2, 3), dtype=wide)
        logits = F.linear(mean, router_weight.to(wide))
        probabilities = logits.softmax(dim=1)
    top, chosen = probabilities.topk(topk, dim=1)
    weights = torch.zeros_like(probabilities).scatter(1, chosen, top)
    out, first = x, 0
    for e, rank in enumerate(ranks):
        mine = slice(first, first + rank)
        first += rank
        rows = [value[mine] for value in (*b, *c)]
        (value,) = expert(x, k, *rows, a.weight[:, mine], a.bias[e])
        out = out + weights[:, e, None, None, None].to(x.dtype) * value
    return out, weights, mean


_run = register(
    Operator(
        "mix_experts",
        ("x", "k"),
        MixtureWeights,
        {"ranks": "int[]", "topk": "int"},
        reference,
        saved={"weights": "N E", "mean": "N C"},
    )
)
