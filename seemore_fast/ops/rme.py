"""RME, the first block of a layer: experts chosen by image, then feed-forward (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.backends.choice import Backend
from seemore_fast.network.parameters import Layer, RMEWeights, flatten, unflatten
from seemore_fast.ops._operator import Operator
from seemore_fast.ops._register import register
from seemore_fast.ops.calibrate import reference as calibrate
from seemore_fast.ops.gated_ffn import reference as gated_ffn
from seemore_fast.ops.layer_norm2d import reference as layer_norm2d
from seemore_fast.ops.mix_experts import reference as mix_experts
from seemore_fast.ops.striped_conv2d import reference as striped_conv2d


def rme(
    x: Tensor,
    weights: RMEWeights,
    ranks: Sequence[int],
    topk: int,
    shuffle: bool,
    recursive: int,
    eps: float = 1e-6,
    *,
    backend: Backend = None,
) -> Tensor:
    """``y + ffn(LN y)`` with ``y = x + proj(mix_experts(GELU(stripes(a)), calibrate(k)))``.

    a and k are the halves of ``split(GELU(conv(LN x)))``, shuffled in two groups of channels if ``shuffle``.

    x: (N, C, H, W), floating, H and W at least ``4 ** recursive``, C even if ``shuffle`` -> (N, C, H, W).
    weights: norms (C,); conv (C, C, 3, 3); split (2C, C, 1, 1); stripes of 3; proj (C, C, 1, 1); the others
    as in `calibrate`, `mix_experts` and `gated_ffn`.  ranks, topk: as in `mix_experts`.

    Raises ValueError (shape, device, options), TypeError (dtype) or BackendError; see
    :mod:`seemore_fast.ops`.
    """
    return _run([x], flatten(weights), ranks, topk, shuffle, recursive, eps, backend=backend)[0]


def reference(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """The formula in plain PyTorch: out, result of conv, y, and the router's weights and mean."""
    *tensors, ranks, topk, shuffle, recursive, eps = rest
    w = unflatten(RMEWeights, tensors)
    (normal,) = layer_norm2d(x, *w.norm_1, eps)
    conv = F.conv2d(normal, *_like(x, w.conv), padding=1)
    u = F.conv2d(F.gelu(conv), *_like(x, w.split))
    if shuffle:
        u = u.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    a, k = u.chunk(2, dim=1)
    (a,) = striped_conv2d(a, *w.stripes, True)
    (k,) = calibrate(k, *flatten(w.calibrate), recursive)
    mixed, weights, mean = mix_experts(a, k, *flatten(w.mixture), ranks, topk)
    y = x + F.conv2d(mixed, *_like(x, w.proj))
    (normal,) = layer_norm2d(y, *w.norm_2, eps)
    return y + gated_ffn(normal, *flatten(w.ffn))[0], conv, y, weights, mean


def _like(x: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    return layer.weight.to(x.dtype), layer.bias.to(x.dtype)


_run = register(
    Operator(
        "rme",
        ("x",),
        RMEWeights,
        {"ranks": "int[]", "topk": "int", "shuffle": "bool", "recursive": "int", "eps": "float"},
        reference,
        saved={"conv": "N C H W", "y": "N C H W", "weights": "N E", "mean": "N C"},
    )
)
